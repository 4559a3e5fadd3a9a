import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from keras import ops

from hrnn_opt import Layout

SHAPES = st.lists(
    st.lists(st.integers(1, 5), max_size=3).map(tuple), min_size=1, max_size=6)
MANY = [(k % 3 + 1,) for k in range(40)]


def tensors(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype("float32") for shape in shapes]


def numpy(x):
    return ops.convert_to_numpy(x)


@settings(max_examples=10)
@given(SHAPES, st.sampled_from([None, 1, 4, 64]))
@example(MANY, None)
@example(MANY, 2)
@example([()], None)
@example([(3000,), (2,)], None)
def test_flatten_then_unflatten_is_the_identity(shapes, lanes):
    layout = Layout(shapes, lanes)
    given = tensors(shapes)
    buffer = layout.flatten(given)
    assert tuple(buffer.shape) == (layout.blocks, layout.lanes)
    back = layout.unflatten(buffer)
    for a, b, shape in zip(given, back, shapes):
        assert tuple(b.shape) == shape
        np.testing.assert_array_equal(a, numpy(b))
    # The padding is zero: nothing but the tensors is in the buffer.
    flat = np.concatenate([a.reshape(-1) for a in given])
    np.testing.assert_array_equal(np.sort(flat[flat != 0]), np.sort(numpy(buffer)[
        numpy(buffer) != 0]))


@settings(max_examples=10)
@given(SHAPES, st.sampled_from([None, 1, 4, 64]), st.sets(st.integers(0, 5)))
@example(MANY, None, {0, 1, 7, 39})
@example(MANY, 2, {0, 1, 7})
@example(MANY, 2, set())
@example([(3000,), (2,)], None, {1})
def test_some_tensors_of_a_buffer_are_taken_and_replaced(shapes, lanes, which):
    layout = Layout(shapes, lanes)
    which = {k for k in which if k < len(shapes)}
    old, new = tensors(shapes), tensors(shapes, seed=1)
    buffer = layout.flatten(old)
    taken = layout.some_of(buffer, sorted(which))
    assert set(taken) == which
    for k, tensor in taken.items():
        np.testing.assert_array_equal(numpy(tensor), old[k])
    mixed = layout.with_some(buffer, {k: ops.convert_to_tensor(new[k]) for k in which})
    np.testing.assert_array_equal(numpy(mixed), numpy(layout.flatten(
        [new[k] if k in which else tensor for k, tensor in enumerate(old)])))


@settings(max_examples=10)
@given(SHAPES, st.sampled_from([None, 1, 4, 64]))
@example(MANY, None)
@example(MANY, 2)
@example([(3000,), (2,)], None)
def test_means_ignore_the_padding(shapes, lanes):
    layout = Layout(shapes, lanes)
    features = [tensors(shapes, seed) for seed in range(2)]
    # Padded lanes hold garbage in a step.
    padding = 1.0 - numpy(layout.flatten([np.ones(shape, "float32") for shape in shapes]))
    buffer = np.stack([numpy(layout.flatten(f)) + 7.0 * padding for f in features])
    means = layout.tensor_mean(ops.convert_to_tensor(buffer))
    expected = np.array([[tensor.mean() for tensor in f] for f in features])
    np.testing.assert_allclose(numpy(means), expected, atol=1e-6)
    whole = [np.concatenate([t.reshape(-1) for t in f]).mean() for f in features]
    np.testing.assert_allclose(numpy(layout.model_mean(means)), whole, atol=1e-6)


@settings(max_examples=10)
@given(SHAPES, st.sampled_from([None, 1, 4, 64]))
@example(MANY, None)
@example(MANY, 2)
def test_to_lanes_gives_each_tensors_value_to_its_parameters(shapes, lanes):
    layout = Layout(shapes, lanes)
    value = np.arange(len(shapes), dtype="float32")
    rows = ops.broadcast_to(
        layout.to_lanes(ops.convert_to_tensor(value[None]))[0], (layout.blocks, layout.lanes))
    for k, tensor in enumerate(layout.unflatten(rows)):
        np.testing.assert_array_equal(numpy(tensor), np.full(shapes[k], value[k]))


def test_models_side_by_side_are_axes_before_the_blocks():
    shapes = [(3, 2), (), (5,)]
    layout = Layout(shapes, lanes=4)
    models = [tensors(shapes, seed) for seed in range(3)]
    stacked = layout.flatten([np.stack(arrays) for arrays in zip(*models)])
    assert tuple(stacked.shape) == (3, layout.blocks, layout.lanes)
    means = layout.tensor_mean(stacked[None])
    for j, model in enumerate(models):
        np.testing.assert_array_equal(numpy(stacked[j]), numpy(layout.flatten(model)))
        np.testing.assert_allclose(
            numpy(means[0, j]), [tensor.mean() for tensor in model], atol=1e-6)
    for k, tensor in enumerate(layout.unflatten(stacked)):
        np.testing.assert_array_equal(numpy(tensor), np.stack([model[k] for model in models]))


def test_large_tensors_are_padded_little():
    for shapes in ([(784, 100), (100,), (100, 10), (10,)], [(7,)] * 50, [(1_000_003,)]):
        layout = Layout(shapes)
        assert layout.blocks * layout.lanes < 1.3 * layout.parameters + 64 * layout.tensors


@pytest.mark.parametrize("shapes", [[], [(2,), (0, 3)]])
def test_a_layout_of_nothing_is_refused(shapes):
    with pytest.raises(ValueError, match="`shapes` must name at least one tensor"):
        Layout(shapes)
