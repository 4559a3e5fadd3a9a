"""The weights that come with the package: what their cards say of them."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

from hrnn_opt import HierarchicalLOpt, LearnedOpt
from hrnn_opt.files.resolve import resolve, shipped
from tests.hrnn_opt.support import apply, assert_close, assert_equal, values, variables

SHAPES = ((20, 6), (6,), (150, 4), ())


def gradients(steps):
    """Of many sizes; the third tensor has rows that no batch uses, and one dead column."""
    rng = np.random.default_rng(3)
    for _ in range(steps):
        grads = [rng.normal(size=shape) * 10.0 ** rng.uniform(-4, 1) for shape in SHAPES]
        grads[2][40:] = 0.0
        grads[2][:, 1] = 0.0
        yield [np.asarray(g, "float32") for g in grads]


@functools.cache
def trained(name):
    """Where 15 steps lead to: of weights by their name, or, by None, of those taken without one."""
    moved = variables(SHAPES)
    optimizer = LearnedOpt(name, seed=0) if name else HierarchicalLOpt(seed=0)
    apply(optimizer, gradients(15), moved)
    return values(moved)


def test_their_names():
    assert shipped() == ["celo_small", "default", "learned", "paper", "rule"]


def test_default_makes_the_steps_of_rule():
    ours, rule = resolve("default"), resolve("rule")
    assert (ours.config.kind, rule.config.kind) == ("equivariant", "direction")
    assert ours.config.rules == rule.config.rules
    assert ours.learning_rate == rule.learning_rate
    # On compiled backends products are not summed in one order.
    assert_close(trained(None), trained("rule"), 1e-6)


@pytest.mark.parametrize("name", [None, "learned", "rule"])
def test_what_has_never_had_a_gradient_does_not_move(name):
    start, moved = values(variables(SHAPES)), trained(name)
    assert_equal([moved[2][40:], moved[2][:, 1]], [start[2][40:], start[2][:, 1]])
    assert np.all(moved[2][:40, 2] != start[2][:40, 2])


def test_a_tensor_without_a_gradient_is_left_out_of_the_papers_step():
    def last(third, **arguments):
        moved = variables(SHAPES)
        optimizer = LearnedOpt("paper", seed=0, **arguments)
        apply(optimizer, [[*g[:2], third, g[3]] for g in gradients(10)], moved)
        return values(moved)

    zeros = np.zeros(SHAPES[2], "float32")
    held = last(zeros)
    assert_equal(held, last(None))
    assert_equal([held[2]], [values(variables(SHAPES))[2]])
    # The read-out of a recurrent network is not 0 where its inputs are.
    assert np.abs(last(zeros, hold_zero_gradients=False)[2] - held[2]).min() > 0


def test_the_papers_optimizer_is_of_another_kind_than_the_rule():
    with pytest.raises(ValueError, match=r"must be those of a hierarchical network.*LearnedOpt"):
        HierarchicalLOpt("rule")
    for name in ("default", "paper"):
        optimizer = HierarchicalLOpt(name)
        optimizer.build([keras.Variable(ops.zeros((2, 2)))])
        assert len(optimizer.meta_parameters) > 11
