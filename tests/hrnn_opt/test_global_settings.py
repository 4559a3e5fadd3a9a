"""Keras's global settings are the model's business: steps of float32 variables do not know them.

That every kind of network computes the same under all of them is in `tests/networks`.
"""

import contextlib

import keras
import numpy as np
import pytest

from hrnn_opt import HierarchicalLOpt
from hrnn_opt.places import backend
from tests.hrnn_opt.support import (
    apply,
    assert_equal,
    dtype_policy,
    gradients,
    optimizer,
    values,
    variables,
)

POLICIES = ("mixed_bfloat16", "mixed_float16", "bfloat16", "float64")


@contextlib.contextmanager
def floatx(name: str):
    keras.config.set_floatx(name)
    try:
        yield
    finally:
        keras.config.set_floatx("float32")


@pytest.mark.parametrize("weights", ["default", "paper"])
def test_shipped_weights_take_the_same_steps_under_any_dtype_policy(weights):
    def moved(policy):
        with dtype_policy(policy):
            tensors = variables()
            apply(HierarchicalLOpt(weights, seed=0), gradients(3), tensors)
        return values(tensors)

    usual = moved("float32")
    for policy in POLICIES:
        assert_equal(moved(policy), usual)


def test_schedules_count_steps_whatever_floatx_is():
    def rate():
        ours = optimizer(learning_rate=keras.optimizers.schedules.ExponentialDecay(0.1, 100, 0.5))
        ours.build(variables())
        # Half of the bits have 2048, and next 2064.
        ours.iterations.assign(2049)
        return float(ours.learning_rate)

    usual = rate()
    with floatx("bfloat16"):
        assert rate() == usual


def test_files_are_written_and_read_in_all_bits(monkeypatch):
    """Sharded buffers are put together and cut for them."""
    ours, found = optimizer(), []
    ours.build(variables())
    for name in ("to_file", "from_file"):
        monkeypatch.setattr(
            ours._layout, name, lambda buffer: found.append(keras.config.floatx()) or buffer)
    with floatx("bfloat16"):
        store: dict[str, np.ndarray] = {}
        ours.save_own_variables(store)
        ours.load_own_variables(store)
    assert set(found) == {"float32"}


def test_float32_is_left_by_whoever_leaves_last():
    """As replicas do, in threads that wait for each other inside."""
    with floatx("float16"):
        first, second = backend.float32(), backend.float32()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert keras.config.floatx() == "float32"
        second.__exit__(None, None, None)
        assert keras.config.floatx() == "float16"
