"""Weights files of format 1, whose network had the rules among its switches, make equal steps."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from hrnn_opt import HierarchicalLOpt, Pretrained
from hrnn_opt.files import format_1
from tests.data.record_steps import KEPT, NETWORKS, STEPS, gradients

DATA = pathlib.Path(__file__).parents[1] / "data"
WEIGHTS = {"default": str(DATA / "default_format_1.safetensors"), "paper": "paper"}
# `default` turns axes, of which rounding decides where gradients have hardly any; it is replayed as
# it was recorded, on JAX, operation by operation, and as far as that does not take too long.
CASES = [("paper", network, STEPS) for network in NETWORKS]
if keras.backend.backend() == "jax":
    CASES += [("default", "mlp", 50)]


def step_function(optimizer, variables):
    """`optimizer.apply`, compiled where that is faster."""
    if keras.backend.backend() == "jax" and not optimizer.network_config.rules:
        import jax

        stateless = jax.jit(optimizer.stateless_apply)

        def apply(grads):
            moved, state = stateless(
                [v.value for v in optimizer.variables], grads, [v.value for v in variables])
            for variable, value in zip([*variables, *optimizer.variables], [*moved, *state]):
                variable.assign(value)

        return apply
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda grads: optimizer.apply(grads, variables))
    return lambda grads: optimizer.apply(grads, variables)


def replayed(weights: str, network: str, steps: int) -> dict[str, np.ndarray]:
    """By the number of the step, where that many steps led."""
    shapes = NETWORKS[network]
    rng = np.random.default_rng(5)
    variables = [keras.Variable(rng.normal(size=s).astype("float32") * 0.1) for s in shapes]
    optimizer = HierarchicalLOpt(WEIGHTS[weights], seed=0)
    optimizer.build(variables)
    apply, found = step_function(optimizer, variables), {}
    for step in range(1, steps + 1):
        apply([ops.convert_to_tensor(g) for g in gradients(shapes, step)])
        if step not in KEPT:
            continue
        # The average, which was recorded, is what averaging keeps beside the variables.
        anchors = [ops.convert_to_numpy(v) for v in variables]
        if hasattr(optimizer, "_offset"):
            offsets = optimizer.per_variable(ops.convert_to_tensor(optimizer._offset))
            anchors = [a + ops.convert_to_numpy(o) for a, o in zip(anchors, offsets)]
        found[str(step)] = np.concatenate([a.reshape(-1) for a in anchors])
    return found


def replayed_as_recorded(out: pathlib.Path, *case) -> dict[str, np.ndarray]:
    """The same in a process that compiles as users' do, with the same rounding as there."""
    program = ("import numpy; from tests.hrnn_opt.test_format_1 import replayed; "
               f"numpy.savez({str(out)!r}, **replayed{case})")
    subprocess.run(
        [sys.executable, "-c", program], cwd=DATA.parents[1], check=True,
        env={**os.environ, "XLA_FLAGS": ""})
    with np.load(out) as found:
        return dict(found)


@pytest.mark.parametrize("weights, network, steps", CASES)
def test_the_steps_are_those_recorded_before_the_rules_left_the_network(
        weights, network, steps, tmp_path):
    if weights == "default":
        found = replayed_as_recorded(tmp_path / "found.npz", weights, network, steps)
    else:
        found = replayed(weights, network, steps)
    with np.load(DATA / "steps_format_1.npz") as recorded:
        expected = {step: recorded[f"{weights}/{network}/{step}"] for step in KEPT}
    farthest = np.abs(expected[STEPS]).max()
    assert set(found) == {str(step) for step in KEPT if step <= steps}
    for step, where in found.items():
        np.testing.assert_allclose(where, expected[int(step)], rtol=0, atol=2e-5 * farthest)


def test_a_file_of_format_1_is_written_as_one_of_format_2(tmp_path):
    old = Pretrained.load(WEIGHTS["default"])
    assert [rule.NAME for rule in old.config.rules] == [
        "averaging", "rotation", "alignment", "rescaling"]
    old.save(tmp_path / "new.safetensors")
    new = Pretrained.load(tmp_path / "new.safetensors")
    assert new.config == old.config and new.settings() == old.settings()
    for name, array in old.arrays.items():
        np.testing.assert_array_equal(new.arrays[name], array)


@pytest.mark.parametrize("switches, message", [
    ({"tensor_step_size": True}, "`tensor_step_size` is no switch any more"),
    ({"step_size": "normalized", "lookahead": True}, "`lookahead` must be False"),
])
def test_what_is_gone_is_named(switches, message):
    with pytest.raises(ValueError, match=message):
        format_1.translated({"config": {"step_size": "learned", **switches}})


def test_a_schedule_in_the_settings_is_refused():
    with pytest.raises(ValueError, match="`decay_steps` is no setting any more"):
        format_1.translated_settings({"learning_rate": 1.0, "decay_steps": 100.0})
