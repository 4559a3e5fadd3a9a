"""The benchmark of the step by itself, on every backend."""

import collections
import json
import types

import keras
import numpy as np
import pytest

from eval.__main__ import main
from eval.benchmark import logging_cost, step_cost


def test_shapes_add_up_over_three_decades():
    sizes = np.array(step_cost.spread_shapes(1_000_000, 160)).ravel()
    assert sizes.sum() == 1_000_000 and len(sizes) == 160
    assert 500 < sizes.max() / sizes.min() < 2000
    assert step_cost.spread_shapes(7, 1) == [(7,)]


@pytest.mark.parametrize("state_dtype, bytes_", [("float32", 4), ("bfloat16", 2)])
def test_the_step_is_measured_beside_adams(capsys, state_dtype, bytes_):
    assert main(["benchmark", "step", "--parameters=4096", "--weights=untrained", "--repeats=1",
                 f"--state_dtype={state_dtype}", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    # 21 numbers for each parameter, and the meta-parameters.
    per_parameter = 21 * bytes_ + 4 * 8349 / 4096
    assert report["state_bytes_per_parameter"] == pytest.approx(per_parameter, rel=0.02)
    assert report["peak_bytes_per_parameter"] >= report["state_bytes_per_parameter"]
    assert report["ratio"] == pytest.approx(
        report["million_parameters_per_second"] / report["adam_million_parameters_per_second"])
    assert report["first_call_seconds"] > 0


def test_the_step_is_measured_on_the_tensors_of_a_model(capsys, monkeypatch):
    measured = []
    monkeypatch.setattr(step_cost, "measure", lambda optimizers, shapes, repeats: (
        measured.extend(shapes), collections.defaultdict(lambda: collections.defaultdict(int, {
            "million_parameters_per_second": 1.0})))[1])
    assert main(["benchmark", "step", "--shapes_of=mnist_conv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ratio"] == 1.0
    kernels = [shape for shape in measured if len(shape) > 1]
    assert kernels == [(3, 3, 1, 8), (5, 5, 8, 8), (28 * 28 * 8, 10)]


def test_what_logging_costs_is_measured(capsys, monkeypatch):
    clock = [0.0]

    class Dynamics(keras.callbacks.Callback):
        def __init__(self, folder, every):
            super().__init__()

        def on_train_batch_end(self, batch, logs=None):
            clock[0] += 2.0

    def now():
        clock[0] += 1.0
        return clock[0]

    monkeypatch.setattr("hrnn_opt.LearningRateDynamics", Dynamics)
    monkeypatch.setattr(
        logging_cost, "time", types.SimpleNamespace(perf_counter=now, process_time=now))
    assert main(["benchmark", "logging", "--every=1", "--repeats=5", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    # Two looks at the clock apart, and two more units for each of ten batches.
    assert report == {"step_seconds": 0.2, "ratio": 11.0, "cpu_ratio": 11.0}
