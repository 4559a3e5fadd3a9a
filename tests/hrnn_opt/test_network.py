import functools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from hrnn_opt import HierarchicalLOpt, HierarchicalRNN, HierarchicalRNNConfig, Layout, Seen
from hrnn_opt.networks import functions
from hrnn_opt.places import backend
from tests.hrnn_opt.reference import Reference
from tests.hrnn_opt.support import assert_close, weights

SHAPES = [(3, 2), (), (5,)]
SIZES = [6, 1, 5]
RNG = np.random.default_rng(5)
RATES = [RNG.uniform(-8, -3, n) for n in SIZES]
GRADIENTS = [[RNG.normal(size=n) * 10.0 ** RNG.uniform(-3, 1) for n in SIZES] for _ in range(4)]


def numpy(x):
    return ops.convert_to_numpy(x)


@functools.cache
def network(**switches):
    """The network of these switches, with weights that all matter."""
    return weights(**switches).network()


@functools.cache
def step_function(network, layout, active):
    """`network.step` as a function of state and gradient.

    JAX compiles it once for a layout; operation by operation it would take several times as long.
    """

    def step(state, gradient):
        return network.step(
            layout, state, Seen(gradient), None if all(active) else np.array(active))

    if keras.backend.backend() != "jax":
        return step
    import jax

    return jax.jit(step)


layout_of = functools.cache(Layout)


def run(network, gradients, shapes=SHAPES, rates=RATES, lanes=None):
    """Updates and attended updates of all steps, tensor by tensor, and the last state."""
    layout = layout_of(tuple(shapes), lanes)

    def flatten(tensors):
        return layout.flatten(
            [np.asarray(t, "float32").reshape(shape) for t, shape in zip(tensors, shapes)])

    state = network.init_state(layout, log_rates=flatten(rates))
    if "log_learning_rate" in state:
        state["log_learning_rate"] = flatten(rates)
    results = []
    for grads in gradients:
        filled = [np.zeros(shape) if g is None else g for g, shape in zip(grads, shapes)]
        step = step_function(network, layout, tuple(g is not None for g in grads))
        state, moves = step(state, flatten(filled))
        for buffer in (moves.update, moves.ahead):
            if buffer is not None:
                results.append([numpy(t).reshape(-1) for t in layout.unflatten(buffer)])
    return results, state


CONFIGS = {
    "paper": {},
    "lookahead": {"lookahead": True},
    "two levels": {"global_units": 0},
    "one level": {"tensor_units": 0, "global_units": 0},
    "one time scale": {"time_scales": 1},
    "two time scales": {"time_scales": 2, "lookahead": True},
    "three time scales, small": {"time_scales": 3, "parameter_units": 3, "tensor_units": 4,
                                 "global_units": 2},
    "constant decays": {"learnable_input_decay": False, "learnable_scale_decay": False},
    "no output scale": {"dynamic_output_scale": False, "lookahead": True},
    "normalized": {"step_size": "normalized"},
    "normalized, running": {"step_size": "normalized", "update_scale_decay": 0.9,
                            "relative_learning_rate": "tensor"},
    "relative to the tensor": {"relative_learning_rate": "tensor"},
    "few inputs": {"relative_learning_rate": "off", "gradient_products": False,
                   "relative_log_mean_squares": False},
    "no shortcut, zero starts": {"gradient_shortcut": False, "learned_start_vectors": False,
                                 "lookahead": True},
}


@pytest.mark.parametrize("switches", CONFIGS.values(), ids=CONFIGS)
def test_the_step_is_that_of_a_plain_program(switches):
    pretrained = weights(**switches)
    rates = [np.zeros(n) for n in SIZES] if switches.get("step_size") == "normalized" else RATES
    # A tensor without a gradient at one step stays as it is.
    gradients = [*GRADIENTS[:2], [GRADIENTS[2][0], None, GRADIENTS[2][2]], GRADIENTS[3]]
    ours, state = run(network(**switches), gradients, rates=rates)
    reference = Reference(pretrained.arrays, pretrained.config, SIZES, rates)
    theirs = []
    for grads in gradients:
        results = reference.step(grads)
        for kind in range(2 if pretrained.has_lookahead else 1):
            theirs.append([
                np.zeros(n) if result[kind] is None else result[kind]
                for n, result in zip(SIZES, results)])
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        assert_close(a, b, 2e-5)
    if "global_hidden" in state:
        np.testing.assert_allclose(numpy(state["global_hidden"]), reference.h2, atol=1e-5)
    if "log_learning_rate" in state:
        rates_now = Layout(SHAPES).unflatten(state["log_learning_rate"])
        for ours_k, tensor in zip(rates_now, reference.tensors):
            np.testing.assert_allclose(
                numpy(ours_k).reshape(-1), tensor["eta_bar"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("step_size, bound", [("learned", 33.0), ("normalized", 6.0)])
def test_the_log_learning_rate_is_clipped(step_size, bound):
    pretrained = weights(step_size=step_size)
    rates = [np.linspace(-bound - 2, bound + 2, n) for n in SIZES]
    ours, _ = run(network(step_size=step_size), GRADIENTS[:2], rates=rates)
    reference = Reference(pretrained.arrays, pretrained.config, SIZES, rates)
    for a, grads in zip(ours, GRADIENTS):
        assert_close(a, [update for update, _ in reference.step(grads)], 2e-5)


@pytest.mark.parametrize("switches", [{}, {"update_scale_decay": 0.9}])
def test_updates_shrink_with_the_width_of_a_tensor(switches):
    shapes, sizes = [(32, 3), (2, 3, 4), (5,), ()], [96, 24, 5, 1]
    gradients = [[RNG.normal(size=n) for n in sizes] for _ in range(3)]
    rates = [np.zeros(n) for n in sizes]
    switches = {"step_size": "normalized", **switches}
    plain, scaled = (
        run(network(**switches, width_exponent=exponent), gradients, shapes, rates)[0]
        for exponent in (0.0, 0.75))
    for before, after in zip(plain, scaled):
        # 32 and 6 inputs to a unit; vectors and scalars stay.
        for u, v, factor in zip(before, after, [(32 / 256) ** -0.75, (6 / 256) ** -0.75, 1, 1]):
            np.testing.assert_allclose(v, factor * u, rtol=1e-5)


@pytest.mark.parametrize("lanes", [1, 4, 64])
def test_the_number_of_lanes_does_not_matter(lanes):
    expected, _ = run(network(lookahead=True), GRADIENTS)
    for a, b in zip(run(network(lookahead=True), GRADIENTS, lanes=lanes)[0], expected):
        assert_close(a, b, 1e-5)


IN_TURN = ("paper", "lookahead", "one level", "normalized, running")


def compiled(function):
    """JAX and TensorFlow move some blocks at a time only where XLA compiles what they do."""
    if keras.backend.backend() == "torch":
        return function
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, jit_compile=True)


# On the other backends it is every kind's, in `tests/networks/test_every_kind.py`.
@pytest.mark.jax_only
@pytest.mark.parametrize("switches, blocks", [
    (CONFIGS[name], 2 + i % 2) for i, name in enumerate(IN_TURN)], ids=IN_TURN)
def test_moving_some_blocks_at_a_time_changes_nothing(switches, blocks, monkeypatch):
    # Seven blocks, some with padding: three at a time, the last turn goes over two of them again.
    layout = Layout(SHAPES, lanes=2)
    gradients = [
        Seen(layout.flatten([np.asarray(g, "float32").reshape(shape)
                             for g, shape in zip(grads, SHAPES)])) for grads in GRADIENTS]
    ours = network(**switches)
    start = ours.init_state(layout, log_rates=ops.zeros((7, 2)) - 5.0)
    whole, _ = compiled(functools.partial(ours.step, layout))(start, gradients[0])
    whole, expected = compiled(functools.partial(ours.step, layout))(whole, gradients[1])
    parts, move = [], HierarchicalRNN._move

    def watched(self, state, given, used_lanes, moves):
        parts.append(given[0].shape[0])
        return move(self, state, given, used_lanes, moves)

    monkeypatch.setattr(HierarchicalRNN, "_move", watched)
    monkeypatch.setattr(
        "hrnn_opt.places.sweep._AT_ONCE", dict.fromkeys(("cpu", "eager"), 2 * blocks))
    step = compiled(lambda state, gradient, taken: ours.step(layout, state, gradient, taken=taken))
    state, _ = step(start, gradients[0], ops.convert_to_tensor(True))
    state, moves = step(state, gradients[1], ops.convert_to_tensor(True))
    assert set(parts) <= {1, 2, 3}
    kept, _ = step(state, gradients[2], ops.convert_to_tensor(False))
    for field, value in state.items():
        assert_close([numpy(value)], [numpy(whole[field])], 1e-6)
        np.testing.assert_array_equal(numpy(kept[field]), numpy(value))
    used = numpy(layout.flatten([np.ones(shape, "float32") for shape in SHAPES]))
    for moved, theirs in zip((moves.update, moves.ahead), (expected.update, expected.ahead)):
        if moved is not None:
            assert_close([used * numpy(moved)], [used * numpy(theirs)], 1e-6)


@pytest.mark.parametrize("jit_compile", [True, False])
def test_training_is_known_to_be_compiled_by_xla(jit_compile):
    known = []

    class Watched(HierarchicalLOpt):
        def _coupled_step(self, *arguments):
            known.append(backend.compiled_by_xla())
            super()._coupled_step(*arguments)

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    jit_compile = jit_compile and keras.backend.backend() != "torch"
    model.compile(Watched(seed=0), "mse", jit_compile=jit_compile)
    model.fit(np.zeros((4, 3)), np.zeros((4, 2)), verbose=0)
    by_xla = {"jax": jit_compile, "tensorflow": jit_compile, "torch": False}
    assert set(known) == {by_xla[keras.backend.backend()]}


def test_asinh_is_exact_to_rounding():
    x = np.logspace(-20, 8.9, 20_000).astype("float32")
    x = np.concatenate([x, -x, np.linspace(0.49, 0.51, 101, dtype="float32")])
    ours = numpy(functions.asinh(ops.convert_to_tensor(x)))
    np.testing.assert_allclose(ours, np.arcsinh(x.astype("float64")), rtol=4e-7)
    ends = numpy(functions.asinh(ops.convert_to_tensor(np.array([0, np.nan], "float32"))))
    np.testing.assert_array_equal(ends, [0, np.nan])


@pytest.mark.jax_only
def test_a_step_in_place_takes_little_memory():
    import jax

    layout = Layout([(400, 1000)], lanes=512)
    ours = network()
    state = ours.init_state(layout)
    step = jax.jit(
        lambda state, gradient, taken: ours.step(layout, state, Seen(gradient), taken=taken),
        donate_argnums=0)
    memory = step.lower(
        state, ops.zeros((layout.blocks, 512)), True).compile().memory_analysis()
    # The update, and what is on the way for some blocks; of the whole it would be 100 numbers.
    assert memory.temp_size_in_bytes < 10 * 4 * layout.parameters
    assert memory.alias_size_in_bytes > 21 * 4 * layout.parameters


def test_many_small_tensors_are_as_many_large_programs():
    # More tensors than the layout slices one by one.
    shapes, sizes = [(2,)] * 20 + [(3,)] * 20, [2] * 20 + [3] * 20
    rng = np.random.default_rng(0)
    rates = [rng.uniform(-8, -3, n) for n in sizes]
    gradients = [[rng.normal(size=n) for n in sizes] for _ in range(2)]
    pretrained = weights()
    ours, _ = run(network(), gradients, shapes, rates, lanes=2)
    reference = Reference(pretrained.arrays, pretrained.config, sizes, rates)
    for a, grads in zip(ours, gradients):
        assert_close(a, [update for update, _ in reference.step(grads)], 2e-5)


def test_the_order_of_the_tensors_does_not_matter():
    order = [2, 0, 1]
    expected, _ = run(network(), GRADIENTS)
    permuted, _ = run(
        network(), [[grads[k] for k in order] for grads in GRADIENTS],
        [SHAPES[k] for k in order], [RATES[k] for k in order])
    for a, b in zip(permuted, expected):
        assert_close(a, [b[k] for k in order], 1e-5)


def test_models_side_by_side_do_not_see_each_other():
    layout = layout_of(tuple(SHAPES), None)
    rng = np.random.default_rng(0)
    shape = (3, layout.blocks, layout.lanes)
    rates = rng.uniform(-8, -3, shape).astype("float32")
    gradients = rng.normal(size=(2, *shape)).astype("float32")
    step = step_function(network(), layout, (True,) * 3)
    state = network().init_state(layout, (3,), rates)
    for gradient in gradients:
        state, moves = step(state, ops.convert_to_tensor(gradient))
    for j in range(3):
        alone = network().init_state(layout, log_rates=rates[j])
        for gradient in gradients:
            alone, moves_alone = step(alone, ops.convert_to_tensor(gradient[j]))
        assert_close([numpy(moves.update)[j]], [numpy(moves_alone.update)], 1e-5)
        np.testing.assert_allclose(
            numpy(state["global_hidden"])[:, j], numpy(alone["global_hidden"]), atol=1e-6)


def test_start_values():
    drawn = HierarchicalRNN(HierarchicalRNNConfig(lookahead=True, parameter_units=400), seed=3)
    p = {name: numpy(v.value) for name, v in drawn.meta_parameters.items()}
    for name in ("parameter_rnn", "tensor_rnn", "global_rnn"):
        np.testing.assert_array_equal(p[f"{name}/gates_bias"], np.float32(2.2))
        np.testing.assert_array_equal(p[f"{name}/candidate_bias"], 0)
    kernel = p["parameter_rnn/gates_kernel"]
    np.testing.assert_allclose(kernel.std(), 0.5 / np.sqrt(len(kernel)), rtol=0.02)
    np.testing.assert_allclose(p["direction_weights"].std(), 0.5 / np.sqrt(400), rtol=0.15)
    np.testing.assert_array_equal(p["attention_weights"], p["direction_weights"])
    assert np.all(np.abs(p["direction_shortcut"] - 0.25) < 0.25)
    assert np.abs(p["parameter_start"]).max() <= 1 and np.abs(p["parameter_start"]).max() > 0.9
    for name, value in {
        "learning_rate_weights": 0, "learning_rate_bias": 0, "scale_decay_bias": 3.2,
        "input_decay_bias": 2.2, "learning_rate_momentum_logit": 3.2, "step_size_offset": -1,
    }.items():
        np.testing.assert_array_equal(p[name], np.float32(value))


def test_the_seed_decides_the_start_values():
    first, again, other = (
        {name: numpy(v.value) for name, v in HierarchicalRNN(seed=seed).meta_parameters.items()}
        for seed in (1, 1, 2))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert not np.array_equal(first["direction_weights"], other["direction_weights"])


def test_round_trip_through_the_layers_config():
    first = HierarchicalRNN(HierarchicalRNNConfig(time_scales=2, parameter_units=3))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(first))
    assert isinstance(again, HierarchicalRNN) and again.config == first.config


def test_wrong_names_of_meta_parameters_are_refused():
    layout = Layout([(2,)])
    values = {name: v.value for name, v in network().meta_parameters.items()}
    values["speed"] = values.pop("direction_weights")
    with pytest.raises(ValueError, match=r"`meta_parameters`.*direction_weights.*speed"):
        network().stateless_init_state(values, layout)


@pytest.mark.parametrize("switches", [
    {"lookahead": True}, {"step_size": "normalized"}, {"dynamic_output_scale": False},
    {"time_scales": 1}], ids=str)
@settings(max_examples=8)
@given(st.floats(-30, 30), st.sampled_from(["normal", "constant", "zero", "one entry"]))
def test_any_scale_of_gradients_gives_finite_steps(switches, exponent, kind):
    pattern = {
        "normal": np.random.default_rng(0).normal(size=6), "constant": np.ones(6),
        "zero": np.zeros(6), "one entry": np.eye(6)[2]}[kind]
    gradient = np.array(pattern * 10.0**exponent, "float32")
    results, state = run(
        network(**switches), [[gradient], [-gradient], [gradient]], [(6,)],
        [np.full(6, -3.0)])
    for tensors in results:
        assert np.all(np.isfinite(tensors[0]))
    for value in state.values():
        assert np.all(np.isfinite(numpy(value)))


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_the_scale_of_gradients_does_not_matter_to_alignment(scale):
    # Decays that do not depend on the recurrent state, whose inputs do know gradients below 1e-6.
    hrnn = network(step_size="normalized", averaging=0.9, alignment_control=True, time_scales=1,
                   learnable_scale_decay=False)
    layout = layout_of(tuple(SHAPES))
    rng = np.random.default_rng(2)
    # Some felt far less than is usual for them.
    gradients = np.array([rng.normal(size=12) * 10.0 ** rng.uniform(-2, 0, 12) for _ in range(4)])
    offset = rng.normal(size=12)

    def flat(row):
        return layout.flatten([
            part.reshape(shape).astype("float32")
            for part, shape in zip(np.split(row, [6, 7]), SHAPES)])

    def log_step_size(scale):
        state = hrnn.init_state(layout)
        for row in gradients:
            state, _ = hrnn.step(layout, state, Seen(flat(scale * row), offset=flat(offset)))
        return float(numpy(state["log_step_size"]))

    assert log_step_size(scale) == pytest.approx(log_step_size(1.0), rel=1e-3)


def test_alignment_forgives_the_first_steps():
    # As an autoencoder's output biases do: they run, overshoot, and come back to where they belong.
    # The size of steps is to be about as before, not several times smaller.
    hrnn = network(step_size="normalized", averaging=0.9, alignment_control=True)
    layout = Layout([(6,)])
    zeros = layout.flatten([np.zeros(6, "float32")])
    ones = layout.flatten([np.ones(6, "float32")])
    state = hrnn.init_state(layout)
    for step in range(30):
        state, _ = hrnn.step(
            layout, state, Seen(ones if step < 5 else -ones, offset=ones if step else zeros))
    assert abs(float(numpy(state["log_step_size"]))) < np.log(2.0)


def meta_loss(hrnn, layout, meta, log_rates, target, steps=3):
    """The loss that the optimizer reaches on a quadratic, as meta-training computes it."""
    import jax
    import jax.numpy as jnp

    theta = jnp.zeros((layout.blocks, layout.lanes))
    state = hrnn.stateless_init_state(meta, layout, log_rates=log_rates)
    iterates = hrnn.iterates

    def loss(theta):
        return jnp.sum(jnp.square(theta - target))

    def step(carry, _):
        theta, offset, state = carry
        state, move = hrnn.stateless_step(
            meta, layout, state, Seen(jax.grad(loss)(theta - offset), offset=offset))
        theta, location = iterates.move(theta, offset, move.update, move.ahead, move.weight)
        return (theta, theta - location, state), loss(theta)

    _, losses = jax.lax.scan(step, (theta, jnp.zeros_like(theta), state), None, length=steps)
    return jnp.mean(losses)


@pytest.mark.jax_only
@pytest.mark.parametrize("switches", [
    {"step_size": "normalized"}, {"time_scales": 1, "tensor_units": 0, "global_units": 0}],
    ids=str)
def test_meta_gradients_are_finite_and_right_from_the_first_step(switches):
    import jax
    import jax.numpy as jnp

    hrnn, layout = network(**switches), Layout([(3, 2), (2,)])
    meta = {name: jnp.asarray(array) for name, array in weights(**switches).arrays.items()}
    rates = jnp.full((layout.blocks, layout.lanes), -2.0)
    target = jnp.asarray(np.random.default_rng(0).normal(size=rates.shape), "float32")
    value = jax.jit(lambda m, target: meta_loss(hrnn, layout, m, rates, target))
    slopes = jax.jit(jax.grad(value))
    gradient = slopes(meta, target)
    for name, array in gradient.items():
        assert np.all(np.isfinite(array)), name
    # Where it starts at the target, all gradients are zero at first.
    for name, array in slopes(meta, jnp.zeros_like(target)).items():
        assert np.all(np.isfinite(array)), name
    # Along a random direction, against a central difference.
    rng = np.random.default_rng(1)
    direction = {
        name: jnp.asarray(rng.normal(size=a.shape), "float32") for name, a in meta.items()}
    slope = sum(float(jnp.sum(gradient[name] * direction[name])) for name in meta)
    h = 1e-3
    ahead, behind = (
        float(value({name: meta[name] + sign * h * direction[name] for name in meta}, target))
        for sign in (1, -1))
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * h), rtol=0.02)


@pytest.mark.jax_only
def test_vmap_over_tasks_equals_a_loop():
    import jax
    import jax.numpy as jnp

    hrnn, layout = network(), Layout([(3, 2), (2,)])
    meta = {name: jnp.asarray(array) for name, array in weights().arrays.items()}
    rng = np.random.default_rng(0)
    rates = jnp.asarray(rng.uniform(-5, -2, (4, layout.blocks, layout.lanes)), "float32")
    gradients = jnp.asarray(rng.normal(size=rates.shape), "float32")

    @jax.jit
    def start(rate):
        return hrnn.stateless_init_state(meta, layout, log_rates=rate)

    def step(state, gradient):
        return hrnn.stateless_step(meta, layout, state, Seen(gradient))

    alone, together = jax.jit(step), jax.jit(jax.vmap(step))
    loop = []
    for rate, gradient in zip(rates, gradients):
        state, _ = alone(start(rate), gradient)
        loop.append(alone(state, gradient)[1].update)
    states = jax.tree.map(lambda *values: jnp.stack(values), *map(start, rates))
    states, _ = together(states, gradients)
    np.testing.assert_allclose(
        together(states, gradients)[1].update, jnp.stack(loop), rtol=1e-4, atol=1e-7)
    # Features first, tasks second: the order in which the buffers lie best.
    second = {name: field.models_axis for name, field in hrnn.fields.items()}
    moved = {name: jnp.moveaxis(value, 0, second[name]) for name, value in states.items()}
    np.testing.assert_allclose(
        jax.jit(jax.vmap(step, in_axes=(second, 0)))(moved, gradients)[1].update,
        jnp.stack(loop), rtol=1e-4, atol=1e-7)
