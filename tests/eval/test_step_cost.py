"""The benchmark of the step by itself, on every backend."""

import json
import types

import keras
import numpy as np
import pytest

from eval.__main__ import main
from eval.benchmark import logging_cost, step_cost
from eval.runs import networks
from hrnn_opt import HierarchicalLOpt


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
    # 21 numbers for each parameter, whether it has had a gradient, and the meta-parameters.
    per_parameter = 21 * bytes_ + 1 + 4 * 8349 / 4096
    assert report["state_bytes_per_parameter"] == pytest.approx(per_parameter, rel=0.01)
    assert report["peak_bytes_per_parameter"] >= report["state_bytes_per_parameter"]
    assert report["ratio"] == pytest.approx(
        report["million_parameters_per_second"] / report["adam_million_parameters_per_second"])
    assert report["first_call_seconds"] > 0


def state_bytes(variables):
    """For each parameter, by the optimizer itself."""
    optimizer = HierarchicalLOpt("default", seed=0)
    optimizer.build(variables)
    sizes = [sum(int(np.prod(v.shape)) for v in held) for held in (optimizer.variables, variables)]
    return 4 * sizes[0] / sizes[1]


def test_the_step_is_measured_on_the_tensors_of_a_model(capsys):
    assert main(["benchmark", "step", "--shapes_of=mnist_conv", "--repeats=1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    model = networks.build("conv_relu")
    expected = state_bytes(model.trainable_variables)
    assert report["state_bytes_per_parameter"] == pytest.approx(expected, rel=1e-6)
    # It tells the model's tensors from others: matrices have axes, and vectors have not.
    kernels = [v for v in model.trainable_variables if len(v.shape) > 1]
    vector = keras.Variable(np.zeros(model.count_params(), "float32"))
    for others in (kernels, [vector]):
        assert state_bytes(others) != pytest.approx(expected, rel=1e-4)


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
