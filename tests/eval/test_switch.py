"""The command that sets switches beside their candidates, and what a figure of them runs."""

import itertools
import json
import os

import numpy as np
import pytest

if os.environ.get("KERAS_BACKEND") != "jax":
    pytest.skip("needs the JAX backend", allow_module_level=True)

from eval.__main__ import main
from eval.benchmark import train_step
from eval.commands import switch
from eval.runs import networks, optimizers
from eval.runs.ellipse_run import MOMENTA, EllipseRun
from hrnn_opt import GreedySwitch


def test_the_command_compares_each_switch_to_its_best_candidate(
        capsys, tmp_path, fake_runs, data_dir):
    arguments = ["switch", "--networks=mlp_relu", f"--data_dir={data_dir}",
                 f"--store={tmp_path / 'store'}", f"--out={tmp_path}"]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["switch"] for row in found] == list(optimizers.SWITCHES)
    for row in found:
        assert set(row["candidates"]) == set(optimizers.CANDIDATES[row["switch"]])
        # The formula gives all of them the same.
        assert row["ratio"] == 1 and row["rule"] == row["adam"] == row["loss"]
    rules = {run.weights for run in fake_runs.runs if run.optimizer == "hrnn"}
    assert rules == {"rule"}
    text = (tmp_path / "switch.md").read_text()
    assert "- switch_rule: at most 1.1 times its best candidate on 1 of 1." in text
    assert main(["switch", "--switches=none", f"--data_dir={data_dir}"]) == 2
    assert "none" in capsys.readouterr().err


def test_a_switch_that_diverges_is_shown_so():
    row = {"network": "n", "steps": 1, "switch": "s", "loss": None, "best": "a",
           "candidates": {"a": 0.5}, "ratio": None, "rule": 0.1, "adam": 0.2}
    text = switch.markdown([row])
    assert "| diverged | 0.500 (a) | diverged |" in text and "on 0 of 1" in text


@pytest.mark.parametrize("name", optimizers.SWITCHES)
def test_switches_hold_the_candidates_that_they_are_compared_to(name):
    def settings(optimizer, rate):
        config = optimizer.get_config()
        return type(optimizer), {**config, "name": None, "learning_rate": rate, "seed": None}

    built = optimizers.build(name, learning_rate=None, schedule="constant", steps=1)
    assert type(built) is GreedySwitch
    outer = float(built.learning_rate)
    for one, alone in zip(built.candidates, optimizers.CANDIDATES[name], strict=True):
        if alone == "rule":
            assert type(one).__name__ == "LearnedOpt"
            continue
        theirs = optimizers.build(alone, learning_rate=None, schedule="constant", steps=1)
        assert float(one.learning_rate) * outer == pytest.approx(float(theirs.learning_rate))
        assert settings(one, 0) == settings(theirs, 0)


def test_the_ellipse_is_descended():
    runs = {momentum: EllipseRun(momentum, 0.0, 60, 0).execute(None)
            for momentum in (None, 0.0)}
    # By hand: without momentum, each coordinate shrinks by 1 - rate * curvature.
    expected = (0.9 ** 120 + 0.02 * 0.998 ** 120) / 2
    assert runs[0.0]["final_training_loss"] == pytest.approx(expected, rel=1e-4)
    assert runs[None]["final_training_loss"] < expected
    assert list(runs[None]["uses"]) == [str(momentum) for momentum in MOMENTA]
    assert sum(runs[None]["uses"].values()) <= 60
    assert not runs[None]["diverged"] and len(runs[None]["curve"]) == 60


def test_the_benchmark_is_relative_to_the_dearest_candidate(monkeypatch):
    times = {"switch": 8.0, "switch, alone": 3.0, "adam": 2.0, "rmsprop": 1.0, "sgd": 0.5}

    def fake(model, made, batch_size, repeats):
        assert set(made) == set(times)
        for make in made.values():
            make()
        return {name: [times[name]] * repeats for name in made}, times, times

    monkeypatch.setattr(train_step, "take_turns", fake)
    report = train_step.measure_switch("mnist_conv", 64, 3)
    assert report["dearest"] == "adam"
    assert report["relative"] == {"switch": 4.0, "switch, alone": 1.5}
    assert report["period_mean"] == pytest.approx(0.1 * 4 + 0.9 * 1.5)


def test_resnet_18_has_its_size():
    def size(width, channels):
        """By He et al. 2016, with two numbers for each filter's normalisation."""
        filters = [width, *(width * 2**stage for stage in range(4))]
        total = filters[0] * (9 * channels + 2)
        for before, after in itertools.pairwise(filters):
            total += after * (9 * before + 2) + 3 * after * (9 * after + 2)
            total += after * (before + 2) if after != before else 0
        return total + 10 * (filters[-1] + 1)

    assert size(64, 3) == 11_173_962
    narrow = networks.build("resnet18_narrow", (28, 28, 1), 10)
    assert sum(int(np.prod(v.shape)) for v in narrow.trainable_variables) == size(8, 1)
    assert narrow.output_shape == (None, 10)
