"""What holds for any network, any gradients and any scale of them."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from hrnn_opt import HierarchicalLOpt
from tests.hrnn_opt.support import apply, values, variables, weights

# Few, so that few programs are compiled; with a scalar, an empty tensor, and one of a block's size.
SHAPES = (((3, 2), (2,), ()), ((1,), (0, 4), (5, 1, 2)), ((8,), (64,)))
FORMS = {
    "learned": dict(lookahead=True),
    "normalized": dict(
        step_size="normalized", averaging=0.9, update_scale_decay=0.99, bounded_updates=True,
        alignment_control=True),
    "turned": dict(
        step_size="normalized", averaging=0.9, update_scale_decay=0.99, bounded_updates=True,
        alignment_control=True, rotation_limit=8),
}
PATTERNS = ("normal", "zeros", "constant", "sparse", "one entry")


def gradient(pattern: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Numbers of about 1, or 0."""
    normal = rng.normal(size=shape)
    if pattern == "zeros":
        return np.zeros(shape)
    if pattern == "constant":
        return np.ones(shape)
    if pattern == "sparse":
        return normal * (rng.random(shape) < 0.1)
    if pattern == "one entry":
        return np.eye(1, normal.size)[0].reshape(shape) if normal.size else normal
    return normal


def moved(form: str, shapes, patterns, exponents, dtype: str = "float32"):
    """The optimizer and the variables after a step for each pattern and scale."""
    given_weights = weights(**FORMS[form])
    opt = HierarchicalLOpt(
        given_weights, initial_learning_rate=1e-2 if form == "learned" else None,
        learning_rate=1.0 if form == "learned" else 1e-2, seed=0)
    tensors = variables(shapes, dtype)
    rng = np.random.default_rng(0)
    largest = 6e4 if dtype == "float16" else 3e38
    steps = [
        [np.clip(gradient(pattern, shape, rng) * 10.0**exponent, -largest, largest)
         for shape in shapes]
        for pattern, exponent in zip(patterns, exponents)]
    apply(opt, steps, tensors)
    return opt, tensors


@given(
    form=st.sampled_from(sorted(FORMS)), shapes=st.sampled_from(SHAPES),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    patterns=st.lists(st.sampled_from(PATTERNS), min_size=3, max_size=3),
    exponents=st.lists(st.integers(-30, 30), min_size=3, max_size=3))
@settings(max_examples=12)
def test_finite_gradients_move_by_little_and_leave_everything_finite(
        form, shapes, dtype, patterns, exponents):
    start = values(variables(shapes, dtype))
    opt, tensors = moved(form, shapes, patterns, exponents, dtype)
    assert int(ops.convert_to_numpy(opt.skipped_steps)) == 0
    for array in values(v for v in opt.variables if "float" in str(v.dtype)):
        assert np.isfinite(array).all()
    for before, after in zip(start, values(tensors)):
        # Whatever the scale, a step is of the size that the learning rate says.
        change = np.sqrt(np.mean(np.square(after - before, dtype="float64"))) if before.size else 0
        assert change < 1.0


@given(form=st.sampled_from(sorted(FORMS)), exponent=st.integers(-2, 14))
@settings(max_examples=6)
def test_the_scale_of_gradients_does_not_matter(form, exponent):
    ours, theirs = (
        values(moved(form, SHAPES[0], ["normal"] * 3, [scale] * 3)[1]) for scale in (exponent, 0))
    start = values(variables(SHAPES[0]))
    for a, b, before in zip(ours, theirs, start):
        np.testing.assert_allclose(a - before, b - before, rtol=2e-3, atol=2e-6)


@pytest.mark.parametrize("form", FORMS)
def test_very_many_tensors(form):
    # More than the layout slices one by one.
    shapes = [(3,)] * 40
    opt, tensors = moved(form, shapes, ["normal"], [0])
    assert opt._layout.tensors == 40 and opt._layout.blocks == 40
    start = values(variables(shapes))
    assert all((a != b).all() for a, b in zip(values(tensors), start))


def test_the_same_seed_gives_the_same_numbers():
    def trained(seed):
        keras.utils.set_random_seed(seed)
        opt = HierarchicalLOpt(weights(lookahead=True), initial_learning_rate=(1e-4, 1e-1))
        tensors = variables()
        rng = np.random.default_rng(0)
        apply(opt, [[rng.normal(size=v.shape) for v in tensors] for _ in range(3)], tensors)
        return np.concatenate([a.reshape(-1) for a in values([*tensors, *opt.variables])])

    first = trained(1)
    # The drawn learning rates too: without a `seed`, Keras's decides them.
    np.testing.assert_array_equal(trained(1), first)
    assert not np.array_equal(trained(2), first)
