"""A gradient with a number that is not finite must do no harm, once or ever after."""

import keras
import numpy as np
import pytest
from keras import ops

from tests.hrnn_opt.support import (
    apply,
    assert_close,
    assert_equal,
    gradients,
    hierarchical_optimizer,
    model,
    optimizer,
    values,
    variables,
)

ARGUMENTS = [
    {}, {"clipnorm": 0.5}, {"clipvalue": 0.5}, {"global_clipnorm": 0.5}, {"weight_decay": 0.1},
    {"lookahead": True, "weight_decay": 0.1}, {"state_dtype": "bfloat16", "lookahead": True},
]


def poisoned(value):
    (step,) = gradients(1, seed=9)
    step[0] = step[0].copy()
    step[0][1, 1] = value
    return step


def skipped(opt) -> int:
    return int(ops.convert_to_numpy(opt.skipped_steps))


def everything(opt, moved):
    """All that a step changes, but for the counters."""
    return values(moved) + values(opt.true_parameters()) + values(
        [v for v in opt.variables if "float" in keras.backend.standardize_dtype(v.dtype)])


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_a_poisoned_step_changes_nothing_and_is_counted(arguments):
    first, second = gradients(2)
    moved, opt = variables(), hierarchical_optimizer(**arguments)
    apply(opt, [first], moved)
    before = everything(opt, moved)
    for count, value in enumerate([np.nan, np.inf, -np.inf], 1):
        apply(opt, [poisoned(value)], moved)
        assert_equal(everything(opt, moved), before)
        assert skipped(opt) == count
    # Training goes on as if nothing had been.
    apply(opt, [second], moved)
    clean, other = variables(), hierarchical_optimizer(**arguments)
    apply(other, [first, second], clean)
    assert_equal(values(moved), values(clean))
    assert skipped(opt) == 3 and skipped(other) == 0
    assert int(ops.convert_to_numpy(opt.iterations)) == 5


@pytest.mark.parametrize("lookahead", [False, True])
def test_a_poisoned_first_step_leaves_the_start(lookahead):
    moved, opt = variables(), optimizer(lookahead=lookahead)
    opt.build(moved)
    before = everything(opt, moved)
    apply(opt, [poisoned(np.nan)], moved)
    assert_equal(everything(opt, moved), before)
    assert_equal(values(moved), values(variables()))


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_poisoned_part_of_an_accumulated_step_skips_it_whole(value, place):
    grads = gradients(6)
    steps = list(grads)
    steps[2 + place] = poisoned(value)
    moved, opt = variables(), optimizer(
        gradient_accumulation_steps=2, lookahead=True, weight_decay=0.1)
    apply(opt, steps[:2], moved)
    before = values(moved) + values(opt.true_parameters())
    apply(opt, steps[2:4], moved)
    assert_equal(values(moved) + values(opt.true_parameters()), before)
    assert skipped(opt) == 1
    apply(opt, steps[4:], moved)
    clean, other = variables(), optimizer(
        gradient_accumulation_steps=2, lookahead=True, weight_decay=0.1)
    apply(other, grads[:2] + grads[4:], clean)
    assert_close(values(moved), values(clean), 1e-7)


def test_no_gradient_in_a_tensor_and_a_poisoned_one_in_another():
    moved, opt = variables(), optimizer(lookahead=True)
    apply(opt, gradients(1), moved)
    before = everything(opt, moved)
    step = poisoned(np.nan)
    with pytest.warns(UserWarning):
        apply(opt, [[step[0], None, step[2]]], moved)
    assert_equal(everything(opt, moved), before)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_variables(dtype):
    moved, opt = variables(dtype=dtype), optimizer(lookahead=True)
    apply(opt, gradients(1), moved)
    before = everything(opt, moved)
    apply(opt, [poisoned(np.inf)], moved)
    assert_equal(everything(opt, moved), before)


def test_loss_scale_optimizer_halves_its_scale_and_goes_on():
    moved, inner = variables(), optimizer()
    outer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=4.0)
    apply(outer, gradients(1), moved)
    before = everything(inner, moved)
    apply(outer, [poisoned(np.inf)], moved)
    assert_equal(everything(inner, moved), before)
    assert float(ops.convert_to_numpy(outer.dynamic_scale)) == 2.0


def test_fit_over_a_poisoned_batch():
    """In the compiled training step, with everything that Keras does around it."""
    x, y = np.random.default_rng(0).normal(size=(24, 4)).astype("float32"), np.arange(24) % 3
    x[9] = np.nan
    network = model(optimizer=optimizer(lookahead=True, clipvalue=1.0))
    network.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    assert skipped(network.optimizer) == 1
    clean = model(optimizer=optimizer(lookahead=True, clipvalue=1.0))
    rest = np.r_[:8, 16:24]
    clean.fit(x[rest], y[rest], batch_size=8, shuffle=False, verbose=0)
    assert_close(values(network.trainable_weights), values(clean.trainable_weights), 1e-6)
