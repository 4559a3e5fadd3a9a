"""The schedule that needs no horizon, and weights that ask for it."""

import dataclasses

import keras
import numpy as np
import pytest

from hrnn_opt import HierarchicalLOpt, InverseSquareRootDecay, Pretrained
from hrnn_opt.network import HierarchicalRNN


@pytest.mark.parametrize("step, factor", [(0, 1.0), (300, 0.5), (9900, 0.1)])
def test_values(step, factor):
    schedule = InverseSquareRootDecay(0.02, 100)
    assert float(schedule(step)) == pytest.approx(0.02 * factor, rel=1e-6)


@pytest.mark.parametrize("name, value", [("learning_rate", 0.0), ("decay_steps", -1), (
    "decay_steps", "soon"), ("learning_rate", float("nan"))])
def test_bad_arguments(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a positive number, got"):
        InverseSquareRootDecay(**{"learning_rate": 0.1, "decay_steps": 10, name: value})


def test_weights_bring_their_schedule_and_keep_it_through_a_config(tmp_path):
    weights = dataclasses.replace(
        Pretrained.from_network(HierarchicalRNN(seed=1)), learning_rate=0.5, decay_steps=30.0)
    weights.save(tmp_path / "w.safetensors")
    optimizer = HierarchicalLOpt(str(tmp_path / "w.safetensors"))
    again = HierarchicalLOpt.from_config(optimizer.get_config())
    for one in (optimizer, again):
        variable = keras.Variable(np.ones(3, "float32"))
        rates = []
        for _ in range(3):
            rates.append(float(one.learning_rate))
            one.apply([np.ones(3, "float32")], [variable])
        np.testing.assert_allclose(rates, 0.5 / np.sqrt(1 + np.arange(3) / 30), rtol=1e-6)


def test_a_given_rate_takes_the_schedules_place(tmp_path):
    weights = dataclasses.replace(
        Pretrained.from_network(HierarchicalRNN(seed=1)), learning_rate=0.5, decay_steps=30.0)
    weights.save(tmp_path / "w.safetensors")
    optimizer = HierarchicalLOpt(str(tmp_path / "w.safetensors"), learning_rate=0.25)
    assert float(keras.ops.convert_to_numpy(optimizer.learning_rate)) == 0.25
