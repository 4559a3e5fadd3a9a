"""What every Keras optimizer does, and how this one does it."""

import contextlib

import keras
import numpy as np
import pytest
from keras import ops

from hrnn_opt import HierarchicalLOpt, HierarchicalRNN, HierarchicalRNNConfig
from tests.hrnn_opt.reference import Reference
from tests.hrnn_opt.support import (
    SHAPES,
    SMALL,
    apply,
    assert_close,
    assert_equal,
    data,
    dtype_policy,
    fit,
    gradients,
    hierarchical_optimizer,
    model,
    optimizer,
    two_replicas,
    values,
    variables,
    weights,
)

BACKEND = keras.backend.backend()


def trained(grads=None, shapes=SHAPES, dtype="float32", **arguments):
    """Variables after some steps with an optimizer of these arguments, and the optimizer."""
    grads = gradients(4, shapes) if grads is None else grads
    moved = variables(shapes, dtype)
    opt = optimizer(**arguments)
    apply(opt, grads, moved)
    return values(moved), opt


def variables_of(opt):
    return opt._trainable_variables


def anchors(opt) -> list[np.ndarray]:
    """The average of the fast iterates of each variable."""
    offsets = opt.per_variable(ops.convert_to_tensor(opt._offset))
    return [v + ops.convert_to_numpy(o) for v, o in zip(values(variables_of(opt)), offsets)]


# The rule.


@pytest.mark.parametrize("lookahead", [False, True])
def test_the_variables_move_as_the_reference_says(lookahead):
    pretrained, grads = weights(lookahead=lookahead), gradients(3)
    moved, opt = trained(grads, weights=pretrained, learning_rate=0.5)
    sizes = [int(np.prod(shape)) for shape in SHAPES]
    reference = Reference(
        pretrained.arrays, pretrained.config, sizes, [np.full(n, np.log(1e-2)) for n in sizes])
    true = [v.reshape(-1).astype("float64") for v in values(variables())]
    for step in grads:
        results = reference.step([g.reshape(-1) for g in step])
        attended = [
            t - 0.5 * (ahead if lookahead else move) for t, (move, ahead) in zip(true, results)]
        true = [t - 0.5 * move for t, (move, _) in zip(true, results)]
    assert_close([v.reshape(-1) for v in moved], attended, 1e-6)
    assert_close([np.reshape(v, -1) for v in values(opt.true_parameters())], true, 1e-6)


# By the number of the step: also one that begins at 0, as to warm up, and is 0 in between.
CONSTANT = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.5, 0.5])
WITH_ZEROS = keras.optimizers.schedules.PiecewiseConstantDecay([4, 9, 14], [0.0, 0.5, 0.0, 0.25])


@pytest.mark.parametrize("switches, schedule", [
    ({}, CONSTANT), ({"update_scale_decay": 0.6}, CONSTANT), ({}, WITH_ZEROS),
    ({"update_scale_decay": 0.6, "bounded_updates": True, "alignment_control": True}, CONSTANT)])
def test_with_averaging_the_average_of_a_fast_iterate_is_trained(switches, schedule):
    pretrained, grads = weights(
        step_size="normalized", averaging=0.8, **switches), gradients(20)
    moved, opt = trained(
        grads, weights=pretrained, learning_rate=schedule, initial_learning_rate=None,
        weight_decay=0.1)
    sizes = [int(np.prod(shape)) for shape in SHAPES]
    reference = Reference(
        pretrained.arrays, pretrained.config, sizes, [np.zeros(n) for n in sizes])
    start = [v.reshape(-1).astype("float64") for v in values(variables())]
    iterates = [[x] for x in start]
    average = start
    for k, step in enumerate(grads):
        offsets = [0.2 * (x - z[-1]) for z, x in zip(iterates, average)]
        moves = [move for move, _ in reference.step([g.reshape(-1) for g in step], offsets)]
        rate = float(ops.convert_to_numpy(schedule(k)))
        if rate == 0:
            continue
        for z, x, move in zip(iterates, average, moves):
            z.append(z[-1] - rate * move - rate * 0.1 * x)
        # An iterate counts in proportion to its number; the start does not count, nor does one
        # that was not moved.
        average = [np.average(z[1:], axis=0, weights=np.arange(1, len(z))) for z in iterates]
        located = [0.2 * z[-1] + 0.8 * x for z, x in zip(iterates, average)]
    if "alignment_control" in switches:
        log_step_size = float(ops.convert_to_numpy(opt.state()["log_step_size"]))
        assert abs(log_step_size) > 0.1
        assert log_step_size == pytest.approx(reference.log_step_size, rel=1e-4)
    assert_close([v.reshape(-1) for v in moved], located, 5e-6)
    # What is trained is where gradients are taken; the average is beside it.
    assert_equal(values(opt.true_parameters()), values(variables_of(opt)))
    assert_close([np.reshape(v, -1) for v in anchors(opt)], average, 5e-6)
    assert not opt.lookahead and not opt.attends


def test_averaging_counts_its_steps_in_half_precision_too():
    moved = variables()
    opt = optimizer(
        weights=weights(step_size="normalized", averaging=0.9, update_scale_decay=0.9),
        initial_learning_rate=None, state_dtype="bfloat16")
    apply(opt, gradients(2), moved)
    assert {v.name: v.dtype for v in opt.variables if v.name in (
        "averaging_steps", "update_scale")} == {
            "averaging_steps": "float32", "update_scale": "float32"}
    assert float(ops.convert_to_numpy(opt.state()["averaging_steps"])) == 2


def test_the_default_optimizer_trains_far_in_few_steps():
    """160 of them, after which Adam with its own default has left 0.7 of the loss."""
    network = model(optimizer=HierarchicalLOpt())
    losses = fit(network, epochs=40)["loss"]
    assert losses[-1] < 0.01 * losses[0]


def test_untrained_weights_train_at_the_rate_that_suits_them():
    """At a third of it, 0.94 of the loss would be left."""
    network = model(optimizer=HierarchicalLOpt("untrained", seed=0))
    losses = fit(network, epochs=12)["loss"]
    assert losses[-1] < 0.92 * losses[0]


# Initial learning rates.


def test_a_number_starts_all_parameters_there_and_a_range_draws_them():
    opt = optimizer(initial_learning_rate=1e-3)
    opt.build(variables())
    for rate in opt.per_variable(opt.state()["log_learning_rate"]):
        np.testing.assert_allclose(ops.convert_to_numpy(rate), np.log(1e-3), rtol=1e-6)
    opt = optimizer(initial_learning_rate=(1e-6, 1e-2), seed=3)
    opt.build(variables([(5000,), (5000,)]))
    first, second = (
        ops.convert_to_numpy(r) for r in opt.per_variable(opt.state()["log_learning_rate"]))
    low, high = np.log(1e-6), np.log(1e-2)
    for rates in (first, second):
        assert low <= rates.min() and rates.max() <= high
        # One half of the range is drawn for each parameter, the other for the tensor.
        np.testing.assert_allclose(rates.max() - rates.min(), (high - low) / 2, rtol=0.01)
    assert abs(first.mean() - second.mean()) > 0.01


def test_the_seed_decides_what_is_drawn():
    def rates(**arguments):
        opt = optimizer(**{"seed": None, **arguments})
        opt.build(variables())
        return ops.convert_to_numpy(opt.state()["log_learning_rate"])

    span = {"initial_learning_rate": (1e-4, 1e-2)}
    assert np.array_equal(rates(seed=1, **span), rates(seed=1, **span))
    assert not np.array_equal(rates(seed=1, **span), rates(seed=2, **span))
    keras.utils.set_random_seed(5)
    first = rates(**span)
    second = rates(**span)
    keras.utils.set_random_seed(5)
    assert np.array_equal(first, rates(**span)) and not np.array_equal(first, second)


# The arguments that Keras optimizers have.


def test_learning_rate_multiplies_the_step():
    start = values(variables())
    one, _ = trained(gradients(1))
    half, _ = trained(gradients(1), learning_rate=0.5)
    assert_close(
        [a - s for a, s in zip(half, start)], [0.5 * (a - s) for a, s in zip(one, start)], 1e-4)
    none, _ = trained(learning_rate=0.0)
    assert_equal(none, start)


def test_a_schedule_and_a_callable_give_the_rate_of_each_step():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.5, 0.0])
    scheduled, _ = trained(learning_rate=schedule)
    # Steps 0 and 1 are taken at 0.5, the others at 0.
    expected, _ = trained(gradients(4)[:2], learning_rate=0.5)
    assert_close(scheduled, expected, 1e-7)
    called, _ = trained(learning_rate=lambda: 0.5)
    assert_close(called, trained(learning_rate=0.5)[0], 1e-7)


def test_the_learning_rate_can_be_assigned():
    moved, opt = variables(), optimizer()
    grads = gradients(2)
    apply(opt, grads[:1], moved)
    before = values(moved)
    opt.learning_rate = 0.0
    apply(opt, grads[1:], moved)
    assert_equal(values(moved), before)
    assert float(ops.convert_to_numpy(opt.learning_rate)) == 0.0


@pytest.mark.parametrize("switches", [
    {"lookahead": True},
    {"step_size": "normalized", "averaging": 0.9, "update_scale_decay": 0.9}])
def test_an_epoch_at_a_learning_rate_of_zero_leaves_the_model_as_it_is(switches):
    network = model(optimizer=optimizer(
        weights=weights(**switches, **SMALL), initial_learning_rate=None, weight_decay=0.1))
    seen = []
    fit(network, epochs=3, callbacks=[
        keras.callbacks.LearningRateScheduler(lambda epoch: 0.0 if epoch == 1 else 0.1),
        # Not at the end of training, where lookahead ends.
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(
            values(network.trainable_weights)))])
    first, second, third = seen
    assert_equal(second, first)
    assert all((a != b).all() for a, b in zip(third, second))


@pytest.mark.parametrize("lookahead", [False, True])
def test_weight_decay_is_decoupled_and_can_exclude(lookahead):
    grads, start = gradients(1), values(variables())
    plain, _ = trained(grads, lookahead=lookahead, learning_rate=0.5)
    decayed, _ = trained(grads, lookahead=lookahead, learning_rate=0.5, weight_decay=0.1)
    # As every Keras optimizer: the variable shrinks by rate * decay, then the step is taken.
    assert_close(decayed, [p - 0.05 * s for p, s in zip(plain, start)], 1e-6)

    opt = optimizer(lookahead=lookahead, learning_rate=0.5, weight_decay=0.1)
    moved = variables()
    opt.exclude_from_weight_decay(var_list=[moved[0]], var_names=["v2"])
    apply(opt, grads, moved)
    expected = [plain[0], decayed[1], plain[2]]
    assert_close(values(moved), expected, 1e-6)


@pytest.mark.parametrize("lookahead", [False, True])
def test_variables_without_a_gradient_stay_as_they_are(lookahead):
    opt = hierarchical_optimizer(lookahead=lookahead, weight_decay=0.1)
    moved, grads = variables(), gradients(3)
    opt.build(moved)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        apply(opt, [[grads[0][0], None, grads[0][2]]], moved)
    assert_equal(values(moved)[1:2], values(variables())[1:2])
    assert_equal(values(opt.true_parameters())[1:2], values(variables())[1:2])
    # Its own networks have not run: it does as one whose training begins.
    hidden = ops.convert_to_numpy(opt.state()["tensor_hidden"])[:, 1]
    np.testing.assert_array_equal(hidden, opt._pretrained.arrays["tensor_start"])
    apply(opt, grads[1:], moved)
    assert not np.array_equal(values(moved)[1], values(variables())[1])


def test_no_gradient_at_all_is_an_error():
    with pytest.raises(ValueError, match="No gradients provided for any variable"):
        optimizer().apply([None] * 3, variables())


CLIPS = {"clipnorm": 0.3, "clipvalue": 0.2, "global_clipnorm": 0.5}


@pytest.mark.parametrize("clip", CLIPS)
def test_clipping_is_that_of_keras(clip):
    bound, grads = CLIPS[clip], gradients(3)

    def clipped(step):
        if clip == "clipvalue":
            return [np.clip(g, -bound, bound) for g in step]
        norms = [np.sqrt((g**2).sum()) for g in step]
        if clip == "global_clipnorm":
            norms = [np.sqrt(sum(n**2 for n in norms))] * len(step)
        return [g * min(1, bound / n) for g, n in zip(step, norms)]

    ours, _ = trained(grads, **{clip: bound})
    assert_close(ours, trained([clipped(step) for step in grads])[0], 1e-6)
    assert not np.allclose(ours[0], trained(grads)[0][0], atol=1e-7)


def test_loss_scale_factor_is_divided_out():
    opt = optimizer(loss_scale_factor=1024.0)
    assert float(ops.convert_to_numpy(opt.scale_loss(ops.convert_to_tensor(2.0)))) == 2048.0
    # Steps know the scale of gradients by the clipping alone.
    scaled, _ = trained([[1024.0 * g for g in s] for s in gradients(4)], loss_scale_factor=1024.0,
                        clipvalue=0.5)
    assert_close(scaled, trained(clipvalue=0.5)[0], 1e-6)


@pytest.mark.parametrize("lookahead", [False, True])
def test_accumulated_gradients_are_one_step_on_their_mean(lookahead):
    grads = gradients(6)
    means = [[(a + b + c) / 3 for a, b, c in zip(*grads[k : k + 3])] for k in (0, 3)]
    moved, opt = variables(), optimizer(
        lookahead=lookahead, gradient_accumulation_steps=3, weight_decay=0.1)
    for k, step in enumerate(grads):
        before = values(moved)
        apply(opt, [step], moved)
        assert (k % 3 == 2) != all(map(np.array_equal, before, values(moved)))
    expected, _ = trained(means, lookahead=lookahead, weight_decay=0.1)
    assert_close(values(moved), expected, 1e-6)


@pytest.mark.parametrize("lookahead", [False, True])
def test_the_moving_average_is_of_the_true_parameters(lookahead):
    grads, moved = gradients(4), variables()
    opt = optimizer(lookahead=lookahead, use_ema=True, ema_momentum=0.7)
    average = None
    for step in grads:
        apply(opt, [step], moved)
        true = values(opt.true_parameters())
        average = true if average is None else [
            0.7 * a + 0.3 * t for a, t in zip(average, true)]
    assert_close(values(opt._model_variables_moving_average), average, 1e-6)
    opt.finalize_variable_values(moved)
    assert_close(values(moved), average, 1e-6)
    assert_equal(values(opt.true_parameters()), values(moved))


@pytest.mark.parametrize("lookahead", [False, True])
def test_the_moving_average_replaces_the_parameters_at_its_frequency(lookahead):
    grads, moved = gradients(3), variables()
    opt = optimizer(
        lookahead=lookahead, use_ema=True, ema_momentum=0.7, ema_overwrite_frequency=2)
    apply(opt, grads[:2], moved)
    average = values(opt._model_variables_moving_average)
    assert_equal(values(moved), average)
    assert_equal(values(opt.true_parameters()), average)
    # Training goes on from there.
    apply(opt, grads[2:], moved)
    plain, other = variables(), optimizer(lookahead=lookahead)
    apply(other, grads[:2], plain)
    other.put_true_parameters()
    for variable, value in zip(plain, average):
        variable.assign(value)
    apply(other, grads[2:], plain)
    assert_close(values(moved), values(plain), 1e-6)


@pytest.mark.parametrize("lookahead", [False, True])
def test_constraints_hold_for_parameters_and_locations(lookahead):
    constrained = [
        keras.Variable(np.full(4, 0.01, "float32"), name="c"),
        keras.Variable(np.full(4, 0.01, "float32"), name="free")]
    constrained[0].constraint = keras.constraints.NonNeg()
    opt = optimizer(lookahead=lookahead, initial_learning_rate=0.1)
    for _ in range(3):
        opt.apply([ops.ones(4), ops.ones(4)], constrained)
        for held in (values(constrained), values(opt.true_parameters())):
            assert held[0].min() >= 0
    # It did bind: the other has gone below zero, or above it by more.
    assert not np.array_equal(*values(constrained))


# Calling it.


def test_apply_gradients_and_apply_are_the_same():
    moved, opt = variables(), optimizer()
    for step in gradients(4):
        opt.apply_gradients(zip([ops.convert_to_tensor(g) for g in step], moved))
    assert_equal(values(moved), trained()[0])
    assert int(ops.convert_to_numpy(opt.iterations)) == 4


def test_variables_may_come_in_another_order_and_in_part():
    moved, opt, (step,) = variables(), optimizer(), gradients(1)
    opt.build(moved)
    apply(opt, [[step[2], step[0], step[1]]], [moved[2], moved[0], moved[1]])
    assert_equal(values(moved), trained([step])[0])
    apply(opt, [[step[1]]], [moved[1]])
    assert_equal([values(moved)[0]], [trained([step])[0][0]])


@pytest.mark.skipif(BACKEND == "tensorflow", reason="Keras has no stateless_apply there")
def test_stateless_apply_leaves_the_optimizer_as_it_is():
    moved, opt = variables(), optimizer(lookahead=True, use_ema=True)
    opt.build(moved)
    before = values(opt.variables)
    trainable = [ops.convert_to_tensor(v) for v in moved]
    state = [ops.convert_to_tensor(v) for v in opt.variables]
    for step in gradients(2):
        trainable, state = opt.stateless_apply(
            state, [ops.convert_to_tensor(g) for g in step], trainable)
    assert_equal(values(opt.variables), before)
    assert_equal(values(moved), values(variables()))
    other, stateful = variables(), optimizer(lookahead=True, use_ema=True)
    apply(stateful, gradients(2), other)
    assert_equal(values(trainable), values(other))
    assert_equal(values(state), values(stateful.variables))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_custom_loop_in_a_tf_function_with_tf_variables(jit_compile):
    import tensorflow as tf

    moved = [tf.Variable(v) for v in values(variables())]
    opt = optimizer(lookahead=True, weight_decay=0.1)
    opt.build(moved)

    @tf.function(jit_compile=jit_compile)
    def train_step():
        with tf.GradientTape() as tape:
            loss = sum(tf.reduce_sum(tf.square(v - 1.0)) for v in moved)
        opt.apply_gradients(zip(tape.gradient(loss, moved), moved))
        return loss

    losses = [float(train_step()) for _ in range(10)]
    assert losses[-1] < losses[0]
    assert int(opt.iterations) == 10


@pytest.mark.skipif(BACKEND != "torch", reason="of PyTorch")
def test_a_custom_loop_with_autograd():
    network = model()
    opt = optimizer(lookahead=True, weight_decay=0.1, use_ema=True)
    x, y = (ops.convert_to_tensor(a) for a in data())
    losses = []
    for _ in range(10):
        loss = ops.mean(keras.losses.sparse_categorical_crossentropy(
            y, network(x), from_logits=True))
        network.zero_grad()
        loss.backward()
        opt.apply([v.value.grad for v in network.trainable_weights], network.trainable_weights)
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    # No step holds on to the graph of the one before.
    assert not any(v.value.requires_grad for v in opt.variables)
    assert all(v.value.is_leaf for v in network.trainable_weights)


@pytest.mark.jax_only
def test_a_custom_loop_in_jax_jit():
    import jax

    network = model()
    opt = optimizer(lookahead=True)
    opt.build(network.trainable_variables)
    x, y = data()

    def loss(trainable):
        logits, _ = network.stateless_call(trainable, [], x)
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, logits)

    @jax.jit
    def train_step(trainable, state):
        value, grads = jax.value_and_grad(loss)(trainable)
        return value, *opt.stateless_apply(state, grads, trainable)

    trainable = [v.value for v in network.trainable_variables]
    state = [v.value for v in opt.variables]
    losses = []
    for _ in range(10):
        value, trainable, state = train_step(trainable, state)
        losses.append(float(value))
    assert losses[-1] < losses[0]


def test_fit_compiled_and_eager_agree():
    results = []
    for run_eagerly in (False, True):
        network = model(
            optimizer=hierarchical_optimizer(weight_decay=0.01, clipnorm=1.0),
            run_eagerly=run_eagerly)
        fit(network)
        results.append(values(network.trainable_weights))
    assert_close(*results, 1e-5)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the others have no choice, or none that works")
def test_fit_with_xla_agrees():
    results = []
    for jit_compile in (False, True):
        network = model(optimizer=optimizer(lookahead=True), jit_compile=jit_compile)
        fit(network)
        results.append(values(network.trainable_weights))
    assert_close(*results, 1e-5)


@pytest.mark.skipif(BACKEND != "torch", reason="of PyTorch's compiler")
@pytest.mark.parametrize("works", [True, False])
def test_a_step_that_torch_compiles_agrees(works, monkeypatch):
    import torch

    compiled, calls = torch.compile, []

    def failing(*arguments):
        raise torch._dynamo.exc.InternalTorchDynamoError("no compiler")

    def watched(function, dynamic):
        calls.append(function)
        return compiled(function, dynamic=dynamic) if works else failing

    # Four blocks: pieces of three and of one.
    monkeypatch.setattr("hrnn_opt.places.sweep._AT_ONCE", {"eager": 12288})
    monkeypatch.setattr("torch.compile", watched)
    shapes, results = [(14000,)], []
    network = weights(**SMALL)
    for jit_compile in (False, True):
        tensors = variables(shapes)
        ours = optimizer(weights=network, jit_compile=jit_compile)
        warns = jit_compile and not works
        with pytest.warns(match="cannot compile") if warns else contextlib.nullcontext():
            apply(ours, gradients(3, shapes), tensors)
        results.append(values(tensors))
    assert_close(*results, 1e-5)
    assert len(calls) == 1


def test_fit_twice_is_fit_once_for_as_long():
    once, twice = (model(optimizer=optimizer()) for _ in range(2))
    fit(once, epochs=2)
    fit(twice)
    fit(twice)
    assert_close(values(twice.trainable_weights), values(once.trainable_weights), 1e-6)


def test_frozen_layers_stay():
    network = model()
    network.layers[0].trainable = False
    network.compile(
        optimizer=optimizer(),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = values(network.weights)
    fit(network)
    after = values(network.weights)
    assert_equal(after[:2], before[:2])
    assert not np.array_equal(after[2], before[2])


@pytest.mark.skipif(BACKEND == "torch", reason="Keras has none there")
def test_steps_per_execution():
    one, two = (
        model(optimizer=optimizer(), steps_per_execution=n) for n in (1, 2))
    fit(one)
    fit(two)
    assert_close(values(two.trainable_weights), values(one.trainable_weights), 1e-6)


# Kinds of variables.


def test_scalars_and_empty_tensors():
    shapes = [(), (0, 3), (2,), (1, 1)]
    grads = [[np.ones(shape, "float32") for shape in shapes]] * 3
    moved, _ = trained(grads, shapes)
    assert moved[1].shape == (0, 3)
    assert all(
        not np.array_equal(a, b) for a, b in zip(moved, values(variables(shapes))) if a.size)
    only_empty, _ = trained([[np.zeros((0, 3), "float32")]], [(0, 3)], lookahead=True, use_ema=True)
    assert only_empty[0].shape == (0, 3)


@pytest.mark.parametrize("arguments", [
    {}, {"clipnorm": 1.0}, {"clipvalue": 1.0}, {"global_clipnorm": 1.0},
    {"gradient_accumulation_steps": 2}, {"loss_scale_factor": 8.0, "lookahead": True}], ids=str)
def test_embeddings(arguments):
    keras.utils.set_random_seed(0)
    network = keras.Sequential([
        keras.Input((3,), dtype="int32"), keras.layers.Embedding(20, 4), keras.layers.Flatten(),
        keras.layers.Dense(1)])
    network.compile(optimizer=optimizer(**arguments), loss="mse")
    x = np.random.default_rng(0).integers(0, 10, (16, 3))
    losses = network.fit(x, x.sum(1) / 10.0, epochs=6, verbose=0, batch_size=8).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")
def test_slices_of_a_gradient_are_the_gradient():
    import tensorflow as tf

    full = np.zeros((3, 2), "float32")
    full[[0, 2]] = [[1, 2], [5, 7]]
    slices = tf.IndexedSlices(
        tf.constant([[1.0, 2.0], [4.0, 3.0], [1.0, 4.0]]), tf.constant([0, 2, 2]),
        tf.constant([3, 2]))
    moved, opt = variables([(3, 2)]), optimizer()
    for _ in range(2):
        opt.apply([slices], moved)
    assert_equal(values(moved), trained([[full]] * 2, [(3, 2)])[0])


@pytest.mark.parametrize("lookahead", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_narrow_variables_move_as_wide_ones(dtype, tolerance, lookahead):
    grads = [[np.round(g * 8) / 8 for g in step] for step in gradients(4)]
    narrow, opt = trained(grads, dtype=dtype, lookahead=lookahead)
    wide, _ = trained(grads, lookahead=lookahead)
    assert_close(narrow, wide, tolerance)
    for variable in opt._state_variables.values():
        assert keras.backend.standardize_dtype(variable.dtype) == "float32"


@contextlib.contextmanager
def double_precision():
    if BACKEND == "jax":
        import jax

        with jax.enable_x64():
            yield
    else:
        yield


@pytest.mark.parametrize("lookahead", [False, True])
def test_variables_of_64_bits_keep_them(lookahead):
    with double_precision():
        moved = [keras.Variable(np.array([1.0, 2.0]), dtype="float64", name="d")]
        opt = optimizer(lookahead=lookahead, learning_rate=1e-9)
        for scale in (1.0, 1e300):
            opt.apply([ops.convert_to_tensor(np.array([scale, -scale]), "float64")], moved)
        (value,), (true,) = values(moved), values(opt.true_parameters())
        assert value.dtype == true.dtype == np.float64
        # Steps of 1e-11 and more, which 32 bits cannot see beside 1.
        for result in (value, true):
            assert np.all(np.abs(result - [1.0, 2.0]) > 1e-13)
            assert np.all(np.abs(result - [1.0, 2.0]) < 1e-7)
        # 1e300 is a finite number.
        assert int(ops.convert_to_numpy(opt.skipped_steps)) == 0


def test_the_state_is_kept_in_its_dtype():
    narrow, opt = trained(state_dtype="bfloat16", lookahead=True)
    for name, variable in opt._state_variables.items():
        assert keras.backend.standardize_dtype(variable.dtype) == "bfloat16", name
    # The true parameters lose nothing.
    assert keras.backend.standardize_dtype(opt._offset.dtype) == "float32"
    start = values(variables())
    wide, _ = trained(lookahead=True)
    assert_close(
        [a - s for a, s in zip(narrow, start)], [a - s for a, s in zip(wide, start)], 0.1)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_mixed_precision_policies(policy):
    with dtype_policy(policy):
        network = model(optimizer=optimizer(initial_learning_rate=3e-3))
        losses = fit(network, epochs=6)["loss"]
    assert losses[-1] < losses[0]
    inner = getattr(network.optimizer, "inner_optimizer", network.optimizer)
    assert (inner is network.optimizer) == (policy != "mixed_float16")
    for variable in inner._state_variables.values():
        assert keras.backend.standardize_dtype(variable.dtype) == "float32"


def test_loss_scale_optimizer_divides_its_scale_out():
    moved, inner = variables(), optimizer(lookahead=True, clipvalue=0.5)
    outer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=4.0)
    apply(outer, [[4.0 * g for g in step] for step in gradients(2)], moved)
    expected, _ = trained(gradients(2), lookahead=True, clipvalue=0.5)
    assert_close(values(moved), expected, 1e-6)
    outer.finalize_variable_values(moved)
    assert_close(values(moved), values(inner.true_parameters()), 1e-6)


def test_beside_another_optimizer():
    network = model()
    second = network.layers[1]
    inner = optimizer(lookahead=True)
    opt = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(
        keras.optimizers.SGD(0.1), {f"{second.path}/.*": inner}))
    network.compile(
        optimizer=opt, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = values(network.trainable_weights)
    losses = fit(network, epochs=5)["loss"]
    assert losses[-1] < losses[0]
    assert all(
        not np.array_equal(a, b) for a, b in zip(before, values(network.trainable_weights)))
    assert len(inner._trainable_variables) == 2
    assert_equal(values(inner.true_parameters()), values(second.trainable_weights))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")
@pytest.mark.parametrize("lookahead", [False, True])
def test_two_replicas_train_as_one(lookahead):
    import tensorflow as tf

    def trained_by(strategy):
        with strategy.scope():
            network = model(
                optimizer=hierarchical_optimizer(lookahead=lookahead, weight_decay=0.01))
        fit(network, epochs=2)
        return values(network.trainable_weights)

    assert_close(
        trained_by(two_replicas()),
        trained_by(tf.distribute.get_strategy()), 1e-5)


# What is not allowed.


@pytest.mark.parametrize("arguments, message", [
    ({"weights": "fast"}, r"`weights` must be one of \[.*'untrained'\].*got 'fast'"),
    ({"weights": 3}, "`weights` must be a shipped name.*got int"),
    ({"weights": "x" * 5000}, "`weights` must be one of"),
    ({"initial_learning_rate": 0.0}, "`initial_learning_rate` must be a positive number.*got 0.0"),
    ({"initial_learning_rate": -1e-3}, "`initial_learning_rate` must be a positive number"),
    ({"initial_learning_rate": float("nan")}, "`initial_learning_rate` must be.*got nan"),
    ({"initial_learning_rate": (1e-2, 1e-4)}, "low <= high"),
    ({"initial_learning_rate": ()}, "`initial_learning_rate` must be"),
    ({"initial_learning_rate": (1e-2,)}, "`initial_learning_rate` must be"),
    ({"initial_learning_rate": "0.1"}, "`initial_learning_rate` must be"),
    ({"learning_rate": -0.1}, "`learning_rate` must be a number of at least 0, got -0.1"),
    ({"learning_rate": float("nan")}, "`learning_rate` must be a number of at least 0, got nan"),
    ({"learning_rate": float("inf")}, "`learning_rate` must be a number of at least 0, got inf"),
    ({"learning_rate": "1"}, "`learning_rate` must be a number of at least 0, got '1'"),
    ({"weight_decay": -0.1}, "`weight_decay` must be a number of at least 0, got -0.1"),
    ({"weight_decay": "0.1"}, "`weight_decay` must be a number of at least 0, got '0.1'"),
    ({"lookahead": 1}, "`lookahead` must be True, False or None, got 1"),
    ({"weights": HierarchicalRNN(), "lookahead": True}, "`lookahead` must be None or False"),
    ({"jit_compile": "auto"}, "`jit_compile` must be True or False, got 'auto'"),
    ({"state_dtype": "float16"}, r"`state_dtype` must be one of \('float32', 'bfloat16'\)"),
    ({"seed": -1}, "`seed` must be an integer of at least 0 or None, got -1"),
    ({"seed": 1.5}, "`seed` must be an integer of at least 0 or None, got 1.5"),
    ({"weights": HierarchicalRNN(HierarchicalRNNConfig(unit_direction=False)),
      "initial_learning_rate": 0.1},
     "`initial_learning_rate` must be None for weights that keep no log"),
    ({"clipnorm": 1.0, "clipvalue": 1.0}, "Only one of `clipnorm`"),
    ({"gradient_accumulation_steps": 1}, "`gradient_accumulation_steps`"),
    ({"use_ema": True, "ema_momentum": 2.0}, "`ema_momentum`"),
], ids=lambda x: str(x)[:40] if isinstance(x, dict) else "")
def test_an_argument_that_is_not_allowed_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        HierarchicalLOpt(**{"weights": "untrained", **arguments})


def test_gradients_that_do_not_fit_are_refused():
    moved, opt = variables(), optimizer()
    with pytest.raises(ValueError, match="`trainable_variables` must be given at the first step"):
        opt.apply([ops.zeros((2,))])
    (step,) = gradients(1)
    step = [ops.convert_to_tensor(g) for g in step]
    for built in (False, True):
        with pytest.raises(ValueError, match=r"`grads` must have an entry for each of.*got 2"):
            opt.apply(step[:2], moved)
        with pytest.raises(ValueError, match=r"`grads`.*shapes.*got \(2,\) for 'v0'"):
            opt.apply([step[1], step[1], step[2]], moved)
        if not built:
            opt.build(moved)
    with pytest.raises(ValueError, match=r"`grads` must have an entry for each of the 3.*got 4"):
        opt.apply([*step, step[0]])
    with pytest.raises(ValueError, match="Unknown variable"):
        opt.apply(step, variables())
    assert_equal(values(moved), values(variables()))


@pytest.mark.parametrize("dtype", ["int32", "bool", "uint8"])
def test_variables_that_are_no_floats_are_refused(dtype):
    counter = keras.Variable(np.zeros(2), dtype=dtype, trainable=False, name="counter")
    with pytest.raises(ValueError, match=f"of floating dtypes, got {dtype} for 'counter'"):
        optimizer().build([counter])


def test_a_network_can_be_handed_in():
    network = HierarchicalRNN(HierarchicalRNNConfig(time_scales=2, lookahead=True), seed=4)
    assert HierarchicalLOpt(network).lookahead
    assert not HierarchicalLOpt(network, lookahead=False).lookahead
    opt = HierarchicalLOpt(network, initial_learning_rate=0.1)
    moved = variables()
    apply(opt, gradients(1), moved)
    assert not np.array_equal(values(moved)[0], values(variables())[0])
