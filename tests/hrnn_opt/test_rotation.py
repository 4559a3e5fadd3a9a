"""Turned axes: what they are, and what the optimizer does in them."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from hrnn_opt import Averaging, Direction, LearnedOpt, Rescaling, Rotation, Seen
from hrnn_opt.places.layout import Layout
from hrnn_opt.registry import network_of
from hrnn_opt.rules.matrix import matrix_of
from hrnn_opt.rules.rotation import Axes, axes_of
from tests.hrnn_opt.reference import Reference, Turned
from tests.hrnn_opt.support import (
    apply,
    assert_close,
    config_of,
    optimizer,
    values,
    variables,
    weights,
)

# A matrix, a vector, a kernel of which one side is too large, one of the matrix's shape, a row.
SHAPES = ((3, 2), (2,), (2, 3, 4), (3, 2), (1, 4))
LIMIT = 4
# With sides that may be cut, some into parts that are not full.
LARGE = ((8, 4), (7, 5), (9, 10), (4, 11))


def correlated(steps: int, shapes=SHAPES, seed: int = 0) -> list[list[np.ndarray]]:
    """Gradients that have axes of their own, the same at each step."""
    rng = np.random.default_rng(seed)

    def mix(n):
        return np.eye(n) + 0.4 * rng.normal(size=(n, n))

    mixes = [(mix(int(np.prod(shape[:-1]))), mix(shape[-1])) for shape in shapes]
    return [
        [(left @ rng.normal(size=(len(left), len(right))) @ right).reshape(shape)
         .astype("float32") for shape, (left, right) in zip(shapes, mixes)]
        for _ in range(steps)]


def compiled(function):
    """The function, compiled where that is worth while for hundreds of calls."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, autograph=False)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return function


def tensors(arrays):
    """By their positions."""
    return {k: ops.convert_to_tensor(x) for k, x in enumerate(arrays)}


def observed(rotation, steps, models=()):
    state = rotation.init_state(models)
    observe = compiled(rotation.observe) if len(steps) > 100 else rotation.observe
    for t, gradients in enumerate(steps):
        state = observe(
            *state, tensors(gradients),
            ops.convert_to_tensor(np.full(models, t, "float32")))
    return state


def test_what_is_turned():
    # Twice (3 and 2), 4 of the kernel's 6 and 4, and 4 of the row.
    assert Axes(SHAPES, LIMIT).numbers == 2 * (9 + 4) + 16 + 16
    assert Axes(SHAPES, LIMIT, cut=True).numbers == 2 * (9 + 4) + 2 * 9 + 16 + 16
    assert Axes(SHAPES, 6).numbers == 2 * (9 + 4) + 36 + 16 + 16
    assert axes_of(SHAPES, 0) is None
    assert axes_of(((5,), (), (1, 1)), 100) is None


@pytest.mark.parametrize("shape, sizes", [
    # Cut in equal parts, the last of them not full.
    ((8, 4), [4, 4, 4]), ((7, 5), [4, 4, 3, 3]), ((9, 10), [3, 3, 3, 4, 4, 4]),
    ((40, 4), [4] * 11),
    # Axes would take more memory than the tensor; rows have nothing in common.
    ((8, 3), [3]), ((41, 4), [4])])
def test_long_sides_may_be_cut(shape, sizes):
    for turned in (shape, shape[::-1]):
        assert Axes((turned,), LIMIT, cut=True).numbers == sum(size**2 for size in sizes)
    assert axes_of(((3, 2),), 1, True) is None


def test_parts_have_axes_of_their_own():
    axes, steps = Axes(LARGE, LIMIT, cut=True), correlated(12, LARGE)
    expected = [Turned(shape, LIMIT, cut=True) for shape in LARGE]
    for step in steps:
        for one, gradient in zip(expected, step):
            one.observe(gradient.astype("float64"))
    state = observed(axes, steps)
    for back in (False, True):
        assert_close(
            [ops.convert_to_numpy(x) for x in axes.turn(
                state[1], tensors(steps[0]), back, cleaned=True).values()],
            [one.turn(x.astype("float64"), back) for one, x in zip(expected, steps[0])], 1e-4)
    # A tensor without a gradient keeps all its axes, and no other one does.
    empty = [np.zeros_like(x) if k == 2 else x for k, x in enumerate(steps[0])]
    after = axes.observe(*state, tensors(empty), ops.convert_to_tensor(20.0))
    kept = axes.owners == 2
    for old, new in zip(state, after):
        old, new = ops.convert_to_numpy(old), ops.convert_to_numpy(new)
        np.testing.assert_array_equal(new[kept], old[kept])
        assert not np.array_equal(new[~kept], old[~kept])


@pytest.mark.parametrize("shape, matrix", [
    ((6, 4), (6, 4)), ((4, 6), (4, 6)),
    ((3, 3, 16, 32), (144, 32)), ((3, 3, 16, 1), (144, 1)),
    # Attention's kernels on the way in, with heads of a part or all of the width, and out.
    ((64, 4, 16), (64, 64)), ((64, 8, 64), (64, 512)), ((128, 8, 64), (128, 512)),
    ((4, 16, 64), (64, 64)), ((8, 64, 64), (512, 64)),
    # A convolution along a line.
    ((3, 16, 32), (48, 32)), ((5, 1, 8), (5, 8)), ((0, 2, 3), (0, 3))])
def test_which_matrix_a_tensor_is(shape, matrix):
    assert matrix_of(shape) == matrix


def test_kernels_of_attention_are_turned_by_their_width():
    # Q of the width's axes alone: entries that share a head are not mixed with those of others.
    axes = Axes([(4, 2, 2)], 4)
    gradients = correlated(300, [(4, 4)])
    state = observed(axes, [[x[0].reshape(4, 2, 2)] for x in gradients])
    expected = observed(Axes([(4, 4)], 4), gradients)
    assert_close([ops.convert_to_numpy(x) for x in state],
                 [ops.convert_to_numpy(x) for x in expected])
    turned = axes.turn(state[1], tensors([gradients[0][0].reshape(4, 2, 2)]))[0]
    assert turned.shape == (4, 2, 2)


def test_the_axes_become_the_eigenvectors():
    rotation, steps = Axes(SHAPES, LIMIT), correlated(300)
    moments, axes = observed(rotation, steps)
    first = [g[0] / np.linalg.norm(g[0]) for g in steps]
    rows = np.mean([x @ x.T for x in first], axis=0)
    columns = np.mean([x.T @ x for x in first], axis=0)
    found = [np.array(ops.convert_to_numpy(x)) for x in (moments, axes)]
    places = slice(0, 9), slice(2 * 9, 2 * 9 + 4)
    for place, expected in zip(places, (rows, columns)):
        n = len(expected)
        np.testing.assert_allclose(found[0][place].reshape(n, n), expected, atol=1e-5)
        basis = found[1][place].reshape(n, n)
        np.testing.assert_allclose(basis.T @ basis, np.eye(n), atol=1e-5)
        diagonal = basis.T @ expected @ basis
        assert np.abs(diagonal - np.diag(np.diag(diagonal))).max() < 0.01
        np.testing.assert_allclose(
            np.diag(diagonal), np.linalg.eigvalsh(expected)[::-1], atol=0.01)


@pytest.mark.parametrize("shapes, cut", [(SHAPES, False), (SHAPES, True), (LARGE, True)])
def test_turned_and_back_a_tensor_is_what_it_was(shapes, cut):
    rotation, steps = Axes(shapes, LIMIT, cut), correlated(30, shapes)
    _, axes = observed(rotation, steps)
    turned = rotation.turn(axes, {k: tensors(steps[-1])[k] for k in rotation.turned})
    assert sorted(turned) == [k for k in range(len(shapes)) if shapes[k] != (2,)]
    for k, y in turned.items():
        x, y = steps[-1][k], ops.convert_to_numpy(y)
        assert x.shape == y.shape
        assert np.linalg.norm(y) == pytest.approx(np.linalg.norm(x), rel=1e-5)
        assert not np.array_equal(x, y)
    for k, y in rotation.turn(axes, turned, back=True).items():
        assert_close([ops.convert_to_numpy(y)], [steps[-1][k]], 1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e15])
def test_the_size_of_gradients_does_not_matter(scale):
    rotation, steps = Axes(SHAPES, LIMIT), correlated(12)
    plain = observed(rotation, steps)
    scaled = observed(rotation, [[g * np.float32(scale) for g in step] for step in steps])
    for a, b in zip(plain, scaled):
        np.testing.assert_allclose(ops.convert_to_numpy(b), ops.convert_to_numpy(a), atol=1e-4)


@pytest.mark.jax_only
def test_many_sizes_at_a_time_do_not_wait_for_each_other():
    """Factorizations of stacks, on the CPU's own threads, did with JAX 0.10: in a process of its
    own, that it can be killed."""
    program = """
import jax, numpy as np
from hrnn_opt.rules.rotation import Axes
shapes = [(n, 200) for n in range(32, 72) for _ in range(3)]
rotation = Axes(shapes, 128)
observe = jax.jit(rotation.observe)
rng = np.random.default_rng(0)
state = rotation.init_state()
for step in range(5):
    gradients = {
        k: rng.normal(size=shape).astype("float32") for k, shape in enumerate(shapes)}
    state = jax.block_until_ready(observe(*state, gradients, np.float32(step)))
assert np.isfinite(state[1]).all()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=200)


def test_a_tensor_without_gradient_keeps_its_axes():
    rotation, steps = Axes(SHAPES, LIMIT), correlated(12)
    before = observed(rotation, steps)
    empty = [np.zeros_like(g) if k == 0 else g for k, g in enumerate(steps[0])]
    after = rotation.observe(
        *before, tensors(empty), ops.convert_to_tensor(20.0))
    for a, b in zip(before, after):
        a, b = ops.convert_to_numpy(a), ops.convert_to_numpy(b)
        np.testing.assert_array_equal(a[:9], b[:9])
        assert not np.array_equal(a[9:18], b[9:18])


def test_models_side_by_side_are_turned_each_by_itself():
    rotation = Axes(SHAPES, LIMIT)
    runs = [correlated(12, seed=seed) for seed in (0, 1)]
    together = observed(
        rotation, [[np.stack(pair) for pair in zip(*steps)] for steps in zip(*runs)], (2,))
    for i, run in enumerate(runs):
        for a, b in zip(observed(rotation, run), together):
            np.testing.assert_allclose(
                ops.convert_to_numpy(b)[i], ops.convert_to_numpy(a), atol=1e-5)


@pytest.mark.parametrize("switches", [
    {"lookahead": True},
    {"step_size": "normalized", "averaging": 0.8, "update_scale_decay": 0.6,
     "alignment_control": True}], ids=str)
def test_the_variables_move_as_the_reference_says(switches):
    """The reference's step, of gradients and offsets turned by numpy, and its updates back.

    Without the row, whose first gradient leaves three of its axes to rounding.
    """
    shapes = SHAPES[:-1]
    pretrained, grads = weights(1, rotation_limit=LIMIT, **switches), correlated(25, shapes)
    normalized = "averaging" in switches
    moved = variables(shapes)
    opt = optimizer(
        weights=pretrained, learning_rate=0.05,
        initial_learning_rate=None if normalized else 1e-2)
    start = 0.0 if normalized else np.log(1e-2)
    sizes = [int(np.prod(shape)) for shape in shapes]
    reference = Reference(
        pretrained.arrays, pretrained.config, sizes, [np.full(n, start) for n in sizes])
    turned = [Turned(shape, LIMIT) for shape in shapes]
    true = [v.astype("float64") for v in values(moved)]
    places, iterates = list(true), [[x] for x in true]
    for step in grads:
        for axes, g in zip(turned, step):
            axes.observe(g.astype("float64"))
        offsets = [axes.turn(0.2 * (x - z[-1])).reshape(-1)
                   for axes, x, z in zip(turned, true, iterates)]
        results = reference.step(
            [axes.turn(g.astype("float64")).reshape(-1) for axes, g in zip(turned, step)], offsets)
        moves, ahead = (
            [None if x is None else 0.05 * axes.turn(x.reshape(shape), back=True)
             for axes, x, shape in zip(turned, column, shapes)] for column in zip(*results))
        if normalized:
            for z, move in zip(iterates, moves):
                z.append(z[-1] - move)
            true = [
                np.average(z[1:], axis=0, weights=np.arange(1, len(z))) for z in iterates]
            places = [x - 0.2 * (x - z[-1]) for x, z in zip(true, iterates)]
        else:
            places = [x - look for x, look in zip(true, ahead)]
            true = [x - move for x, move in zip(true, moves)]
    apply(opt, grads, moved)
    assert_close(values(moved), places, 2e-5)
    if not normalized:
        assert_close(values(opt.true_parameters()), true, 2e-5)


@pytest.mark.jax_only
def test_meta_gradients_are_finite_and_do_not_go_through_the_axes():
    import jax
    import jax.numpy as jnp

    switches = dict(step_size="normalized", averaging=0.8, rotation_limit=LIMIT)
    hrnn, layout = network_of(config_of(**switches)), Layout(SHAPES)
    meta = {name: jnp.asarray(array) for name, array in weights(**switches).arrays.items()}
    zeros = jnp.zeros((layout.blocks, layout.lanes))
    state = hrnn.init_state(layout)

    def sizes(meta, scale, steps):
        """Of an update after gradients of this scale, and of the axes."""
        now = state
        for gradients in steps:
            buffer = layout.flatten([jnp.asarray(g) for g in gradients]) * scale
            now, step = hrnn.stateless_step(meta, layout, now, Seen(buffer, offset=zeros))
        return jnp.sum(jnp.square(step.update[:, :1])), jnp.sum(now["axes"]**3)

    # One program for both: of the one size or the other.
    slopes = jax.jit(jax.grad(
        lambda meta, scale, steps, which: jnp.dot(which, jnp.stack(sizes(meta, scale, steps))),
        (0, 1)))
    update, axes, steps = np.float32([1, 0]), np.float32([0, 1]), correlated(3)
    for given in (steps, [[np.zeros(shape, "float32") for shape in SHAPES]] * 3):
        for leaf in jax.tree.leaves(slopes(meta, 1.0, given, update)):
            assert np.isfinite(leaf).all()
    assert slopes(meta, 1.0, steps, axes)[1] == 0


def test_a_step_that_is_skipped_leaves_the_axes():
    opt = optimizer(weights=weights(rotation_limit=LIMIT))
    moved = variables(SHAPES)
    apply(opt, correlated(3), moved)
    before = [ops.convert_to_numpy(x) for x in (opt.state()["moments"], opt.state()["axes"])]
    (bad,) = correlated(1, seed=5)
    bad[0][0, 0] = np.nan
    apply(opt, [bad], moved)
    for a, b in zip(before, (opt.state()["moments"], opt.state()["axes"])):
        np.testing.assert_array_equal(a, ops.convert_to_numpy(b))


def test_half_precision_keeps_the_axes_whole():
    opt = optimizer(weights=weights(rotation_limit=LIMIT), state_dtype="bfloat16")
    apply(opt, correlated(2), variables(SHAPES))
    assert {v.name: v.dtype for v in opt.variables if v.name in ("moments", "axes")} == {
        "moments": "float32", "axes": "float32"}


@pytest.mark.parametrize("switches", [
    {"limit": 0}, {"limit": 8193}, {"limit": 8.0}, {"limit": True}, {"cut": 1}, {"cut": "yes"}])
def test_bad_switches_are_refused(switches):
    (name,) = switches
    with pytest.raises(ValueError, match=f"`?{name}`?"):
        Rotation(Rescaling(Direction()), **switches)


def test_wide_layers_train_in_parts():
    """Steps of the whole optimizer: with sides cut the matrix moves elsewhere, the vector not."""
    shapes = ((6, 5), (5,))
    places = []
    for cut in (False, True):
        opt = LearnedOpt(Averaging(Rotation(Rescaling(Direction()), limit=LIMIT, cut=cut)))
        moved = variables(shapes)
        apply(opt, [[x, y[0]] for x, y in correlated(3, [(6, 5), (1, 5)])], moved)
        places.append(values(moved))
    assert all(np.isfinite(x).all() for of_one in places for x in of_one)
    assert not np.allclose(places[0][0], places[1][0])
    np.testing.assert_allclose(places[0][1], places[1][1], rtol=1e-6)


def test_a_valley_that_lies_aslant_is_no_longer_one():
    """W with a loss |A W B|^2: in turned axes its curvatures can be scaled away."""
    rng = np.random.default_rng(0)

    def mix(n):
        basis = np.linalg.qr(rng.normal(size=(n, n)))[0]
        return ops.convert_to_tensor((basis * np.logspace(0, -1.5, n)).astype("float32"))

    left, right = mix(8), mix(8)

    def loss(limit):
        core = Rescaling(Direction())
        opt = LearnedOpt(
            Averaging(Rotation(core, limit=limit) if limit else core), learning_rate=0.02)
        (w,) = moved = [keras.Variable(np.ones((8, 8), "float32"))]

        def residual():
            return ops.matmul(ops.matmul(ops.transpose(left), ops.convert_to_tensor(w)), right)

        for _ in range(80):
            slope = ops.matmul(ops.matmul(left, residual()), ops.transpose(right))
            opt.apply([slope], moved)
        opt.finalize_variable_values(moved)
        return float(ops.convert_to_numpy(ops.sum(ops.square(residual()))))

    assert loss(8) < 0.5 * loss(0)
