"""What Keras's own tests ask of its optimizers, callbacks and files, asked of HierarchicalLOpt.

docs/compatibility.md has the table of which is which. What other modules ask already is not here.
"""

import json
import pickle
import zipfile

import keras
import numpy as np
import pytest
from keras import layers, ops

from hrnn_opt import HierarchicalLOpt
from tests.hrnn_opt.support import (
    apply,
    assert_close,
    assert_equal,
    data,
    fit,
    gradients,
    model,
    optimizer,
    two_replicas,
    values,
    variables,
)

BACKEND = keras.backend.backend()
# Tracing a step takes longer than taking the few that a test needs.
EAGERLY = {"run_eagerly": True} if BACKEND == "tensorflow" else {}


def compiled(opt=None, seed=0, **settings) -> keras.Model:
    return model(seed, optimizer=optimizer() if opt is None else opt, **{**EAGERLY, **settings})


def number(value) -> float:
    return float(ops.convert_to_numpy(value))


def moved_by(opt, grads, **more):
    """Variables after steps of an optimizer."""
    tensors = variables()
    apply(opt, grads, tensors, **more)
    return values(tensors)


# Optimizers.


def test_iterations_are_steps_and_not_batches():
    tensors, opt = variables(), optimizer(gradient_accumulation_steps=3)
    grads = gradients(4)
    for k, step in enumerate(grads, 1):
        apply(opt, [step], tensors)
        assert (number(opt._iterations), number(opt.iterations)) == (k, k // 3)
        since_the_step = grads[3 * (k // 3):k]
        for j, sums in enumerate(values(opt._accumulated_gradients)):
            np.testing.assert_allclose(
                sums, sum((step[j] for step in since_the_step), np.zeros_like(sums)), rtol=1e-6)


def test_constraints_hold_where_a_gradient_is_zero():
    tensors = [keras.Variable(np.full((2, 2), -0.5, "float32")) for _ in range(2)]
    tensors[0].constraint = keras.constraints.NonNeg()
    optimizer().apply([ops.zeros((2, 2)), ops.ones((2, 2))], tensors)
    np.testing.assert_array_equal(values(tensors)[0], 0.0)


@pytest.mark.parametrize("steps", [None, 2])
def test_what_gradients_overwrite_is_overwritten(steps):
    tensors = variables([(2, 2), (2, 2)])
    tensors[0].overwrite_with_gradient = True
    opt, grads = optimizer(gradient_accumulation_steps=steps), gradients(2, [(2, 2)] * 2)
    for k in range(steps or 1):
        assert_equal(values(tensors), values(variables([(2, 2), (2, 2)])))
        apply(opt, [grads[k]], tensors)
    kept = grads[0][0] if steps is None else np.maximum(grads[0][0], grads[1][0])
    np.testing.assert_array_equal(values(tensors)[0], kept)
    assert (values(tensors)[1] != values(variables([(2, 2), (2, 2)]))[1]).all()


def test_weights_of_one_optimizer_go_into_another():
    tensors, first, second = variables(), optimizer(lookahead=True), optimizer(lookahead=True)
    apply(first, gradients(2), tensors)
    with pytest.raises(ValueError, match=r"`set_weights\(\)` on an optimizer that has not"):
        second.set_weights(first.variables)
    second.build(tensors)
    second.set_weights(first.variables)
    assert_equal(values(second.variables), values(first.variables))


def test_a_schedule_in_place_of_a_number_takes_its_variable_away():
    opt = optimizer(learning_rate=0.5)
    before = len(opt.variables)
    opt.learning_rate = keras.optimizers.schedules.PolynomialDecay(0.5, 4)
    assert len(opt.variables) == before - 1
    assert number(opt.learning_rate) == 0.5


def test_an_optimizer_is_pickled():
    opt = optimizer(weight_decay=0.1, use_ema=True)
    again = pickle.loads(pickle.dumps(opt))
    assert again.get_config() == opt.get_config()
    assert_equal(moved_by(again, gradients(2)), moved_by(opt, gradients(2)))


def test_names_are_told_apart_and_kept():
    first, second = HierarchicalLOpt("untrained"), HierarchicalLOpt("untrained")
    assert first.name != second.name
    for opt in (second, HierarchicalLOpt("untrained", name="mine")):
        assert keras.optimizers.deserialize(keras.optimizers.serialize(opt)).name == opt.name


def test_it_is_found_by_its_registered_name():
    assert isinstance(keras.optimizers.get("hrnn_opt>HierarchicalLOpt"), HierarchicalLOpt)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras has no sparse gradients there")
def test_a_sparse_gradient_is_what_it_is_when_dense():
    full = np.zeros((5, 3), "float32")
    full[[0, 2]] = gradients(1, [(2, 3)])[0][0]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        sparse = tf.IndexedSlices(full[[0, 2]], tf.constant([0, 2]), tf.constant([5, 3]))
    else:
        from jax.experimental.sparse import BCOO

        sparse = BCOO((ops.convert_to_tensor(full[[0, 2]]), np.array([[0], [2]])), shape=(5, 3))
    results = []
    for gradient in (sparse, ops.convert_to_tensor(full)):
        tensors, opt = variables([(5, 3)]), optimizer()
        for _ in range(2):
            opt.apply([gradient], tensors)
        results.append(values(tensors))
    assert_equal(*results)
    unused = [1, 3, 4]
    np.testing.assert_array_equal(
        results[0][0][unused], values(variables([(5, 3)]))[0][unused])


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")
def test_variables_of_keras_and_of_tensorflow_side_by_side():
    import tensorflow as tf

    (start, _, _), (step, _) = values(variables()), gradients(2)
    tensors = [keras.Variable(start), tf.Variable(start)]
    opt = optimizer()
    opt.apply_gradients(zip([tf.constant(step[0])] * 2, tensors))
    np.testing.assert_allclose(*map(ops.convert_to_numpy, tensors), rtol=1e-6)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        opt.apply_gradients(zip([tf.constant(step[0]), None], tensors))
    assert number(opt.iterations) == 2


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")
def test_a_checkpoint_of_tensorflow_holds_the_optimizer(tmp_path):
    import tensorflow as tf

    network = compiled(optimizer(lookahead=True))
    fit(network)
    checkpoint = tf.train.Checkpoint(network, optimizer=network.optimizer)
    path = checkpoint.save(str(tmp_path / "c"))
    before = values(network.variables), values(network.optimizer.variables)
    fit(network)
    checkpoint.restore(path).assert_consumed()
    assert_equal(values(network.variables), before[0])
    assert_equal(values(network.optimizer.variables), before[1])


# LossScaleOptimizer around it.


def scaled(grads, factor):
    return [[factor * g for g in step] for step in grads]


def test_a_loss_scale_inside_another_is_none():
    # Steps know the scale of gradients by the clipping alone.
    outer = keras.optimizers.LossScaleOptimizer(
        optimizer(loss_scale_factor=100.0, clipvalue=0.5), initial_scale=4.0)
    assert_close(moved_by(outer, scaled(gradients(3), 4.0)),
                 moved_by(optimizer(clipvalue=0.5), gradients(3)), 1e-6)


def test_the_loss_scale_falls_and_rises():
    outer = keras.optimizers.LossScaleOptimizer(
        optimizer(), initial_scale=8.0, dynamic_growth_steps=2)
    tensors = variables()
    infinite = [np.full(v.shape, np.inf, "float32") for v in tensors]
    apply(outer, [infinite] * 2, tensors)
    assert number(outer.scale_loss(ops.convert_to_tensor(1.0))) == 2.0
    assert_equal(values(tensors), values(variables()))
    assert number(outer.iterations) == 0
    apply(outer, scaled(gradients(4), 2.0), tensors)
    assert number(outer.scale_loss(ops.convert_to_tensor(1.0))) == 8.0
    assert number(outer.iterations) == 4


def test_a_loss_scale_optimizer_travels():
    outer = keras.optimizers.LossScaleOptimizer(
        optimizer(weight_decay=0.1), initial_scale=4.0, dynamic_growth_steps=5, name="outer")
    again = keras.optimizers.deserialize(
        json.loads(json.dumps(keras.optimizers.serialize(outer))))
    assert again.get_config() == outer.get_config()
    assert isinstance(again.inner_optimizer, HierarchicalLOpt)
    assert again.inner_optimizer.weight_decay == 0.1


# MultiOptimizer around it.


def two(first=None, second=None, **settings):
    """One optimizer for the first variables, one for all others."""
    return keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(
        optimizer() if second is None else second,
        {".*v[01].*": optimizer() if first is None else first}), **settings)


def halves(first, second, grads):
    """Variables after steps of two optimizers, each by itself."""
    tensors = variables()
    for opt, part in ((first, slice(2)), (second, slice(2, None))):
        apply(opt, [step[part] for step in grads], tensors[part])
    return values(tensors)


def test_several_of_them_have_their_own_variables_and_move_them():
    grads, multi, tensors = gradients(2), two(optimizer(learning_rate=0.5)), variables()
    multi.build(tensors)
    if BACKEND == "jax":
        new, state = [v.value for v in tensors], [v.value for v in multi.variables]
        for step in grads:
            new, state = multi.stateless_apply(state, list(map(ops.convert_to_tensor, step)), new)
    else:
        apply(multi, grads, tensors)
        new = tensors
    assert [len(opt._trainable_variables) for opt in multi.optimizers] == [2, 1]
    assert_close(values(new), halves(optimizer(learning_rate=0.5), optimizer(), grads), 1e-6)


def test_several_of_them_by_a_function_and_from_a_config():
    first, second = optimizer(), optimizer(learning_rate=0.5)
    multi = keras.optimizers.MultiOptimizer(lambda v: second if "v2" in v.path else first)
    multi.build(variables())
    assert set(map(id, multi.optimizers)) == {id(first), id(second)}
    again = keras.optimizers.deserialize(
        json.loads(json.dumps(keras.optimizers.serialize(two(first, second)))))
    assert [opt.get_config() for opt in again.optimizers] == [
        first.get_config(), second.get_config()]
    assert [number(opt.learning_rate) for opt in again.optimizers] == [1.0, 0.5]


def test_several_of_them_have_the_loss_scale_of_all():
    multi = two(optimizer(loss_scale_factor=2.0), loss_scale_factor=8.0)
    multi.build(variables())
    assert [opt.loss_scale_factor for opt in multi.optimizers] == [8.0, 8.0]
    keras.optimizers.LossScaleOptimizer(multi)
    assert [opt.loss_scale_factor for opt in multi.optimizers] == [None, None]


def test_callbacks_reach_each_of_several():
    """Learning rates by name: two of one class must not share it."""
    first, second = optimizer(learning_rate=1.0), optimizer(learning_rate=0.5)
    network = model()
    network.compile(loss="mse", optimizer=keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(second, {f"{network.layers[0].name}/.*": first})))
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    plateau = keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=1)
    for callback in (halve, plateau):
        callback.set_model(network)
    halve.on_epoch_begin(0)
    assert [number(o.learning_rate) for o in (first, second)] == [0.5, 0.25]
    plateau.on_train_begin()
    for epoch in range(2):
        plateau.on_epoch_end(epoch, {"loss": 1.0})
    assert [number(o.learning_rate) for o in (first, second)] == [0.25, 0.125]
    logs = {"loss": 1.0}
    halve.on_epoch_end(0, logs)
    assert sorted(logs.values()) == [0.125, 0.25, 1.0]


# Callbacks.


@pytest.mark.parametrize("loss_scale", [False, True])
def test_swap_ema_weights_shows_and_saves_the_average(loss_scale, tmp_path):
    opt = optimizer(use_ema=True, ema_momentum=0.9, lookahead=True)
    network = compiled(keras.optimizers.LossScaleOptimizer(opt) if loss_scale else opt)
    shown = fit(network, 2, validation_data=data(seed=1), callbacks=[
        keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")])["val_loss"][-1]
    saved = keras.saving.load_model(tmp_path / "2.keras")
    for one in (network, saved):
        assert one.evaluate(*data(seed=1), verbose=0) == pytest.approx(shown, rel=1e-6)


def test_swap_ema_weights_needs_an_average():
    with pytest.raises(ValueError, match="`use_ema=True`"):
        fit(compiled(), callbacks=[keras.callbacks.SwapEMAWeights()], validation_data=data())


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")
def test_swap_ema_weights_on_two_replicas():
    with two_replicas().scope():
        network = model(optimizer=optimizer(use_ema=True, ema_momentum=0.9), jit_compile=False)
    shown = fit(network, 2, validation_data=data(seed=1), callbacks=[
        keras.callbacks.SwapEMAWeights()])["val_loss"][-1]
    assert network.evaluate(*data(seed=1), verbose=0) == pytest.approx(shown, rel=1e-5)


class Interrupt(keras.callbacks.Callback):
    """Stops training with an error after some batches."""

    def __init__(self, batches):
        super().__init__()
        self.left = batches

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise RuntimeError("out of power")


@pytest.mark.parametrize("save_freq, steps", [(1, 14), ("epoch", 12)])
def test_a_backup_goes_on_where_it_was_made(save_freq, steps, tmp_path):
    """Keras begins the epoch of the backup anew: of its first two batches, if each is backed up,
    steps are taken twice."""
    folder = str(tmp_path / "backup")
    with pytest.raises(RuntimeError, match="out of power"):
        fit(compiled(), 3, callbacks=[
            keras.callbacks.BackupAndRestore(folder, save_freq=save_freq), Interrupt(6)])
    network = compiled(seed=1)
    fit(network, 3, callbacks=[keras.callbacks.BackupAndRestore(folder, save_freq=save_freq)])
    assert number(network.optimizer.iterations) == steps
    if save_freq == "epoch":
        whole = compiled()
        fit(whole, 3)
        assert_equal(values(network.weights), values(whole.weights))
    assert not (tmp_path / "backup").exists()


def test_a_damaged_backup_falls_back_to_the_one_before(tmp_path):
    folder = str(tmp_path / "backup")
    backup = keras.callbacks.BackupAndRestore(folder, double_checkpoint=True)
    with pytest.raises(RuntimeError):
        fit(compiled(), 3, callbacks=[backup, Interrupt(10)])
    with open(backup._weights_path, "w") as file:
        file.write("0")
    network, whole = compiled(seed=1), compiled()
    fit(network, 3, callbacks=[keras.callbacks.BackupAndRestore(folder, double_checkpoint=True)])
    fit(whole, 3)
    assert_equal(values(network.weights), values(whole.weights))


def test_a_learning_rate_scheduler_sets_what_a_schedule_does_not_hold():
    network = compiled(optimizer(learning_rate=0.5))
    shown = fit(network, 2, callbacks=[
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)])["learning_rate"]
    assert shown == [0.25, 0.125] and number(network.optimizer.learning_rate) == 0.125
    network.optimizer.learning_rate = keras.optimizers.schedules.PolynomialDecay(0.1, 10)
    with pytest.raises(TypeError, match="created with a `LearningRateSchedule`"):
        fit(network, callbacks=[keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate)])


def test_early_stopping_serves_several_fits():
    network = compiled(optimizer(learning_rate=0.0))
    stopper = keras.callbacks.EarlyStopping(monitor="loss", patience=2, restore_best_weights=True)
    for _ in range(2):
        assert len(fit(network, 9, callbacks=[stopper])["loss"]) == 3


@pytest.mark.parametrize("weights_only", [False, True])
def test_checkpoints_within_an_epoch_are_of_their_batch(weights_only, tmp_path):
    """And weights alone hold the optimizer's too."""
    ending = "weights.h5" if weights_only else "keras"
    whole = compiled()
    fit(whole, callbacks=[keras.callbacks.ModelCheckpoint(
        tmp_path / f"{{batch}}.{ending}", save_freq=2, save_weights_only=weights_only)])
    path = tmp_path / f"2.{ending}"
    if weights_only:
        network = compiled(seed=1)
        network.optimizer.build(network.trainable_variables)
        network.load_weights(path)
    else:
        network = keras.saving.load_model(path)
    assert number(network.optimizer.iterations) == 2
    x, y = data()
    network.fit(x[16:], y[16:], batch_size=8, shuffle=False, verbose=0)
    assert_close(values(network.weights), values(whole.weights), 1e-6)


def test_a_loss_that_is_not_a_number_ends_training_and_harms_nothing():
    network, (x, y) = compiled(), data()
    before = values(network.weights)
    x = x.copy()
    x[0] = np.nan
    losses = network.fit(x, y, batch_size=32, epochs=3, verbose=0, callbacks=[
        keras.callbacks.TerminateOnNaN()]).history["loss"]
    assert len(losses) == 1
    assert_equal(values(network.weights), before)


# Files.


def test_what_a_file_says_of_the_optimizer(tmp_path):
    network, path = compiled(optimizer(learning_rate=0.5)), tmp_path / "m.keras"
    fit(network)
    network.save(path)
    config = json.loads(zipfile.ZipFile(path).read("config.json"))["compile_config"]["optimizer"]
    assert config["registered_name"] == "hrnn_opt>HierarchicalLOpt"
    assert config["config"] == json.loads(json.dumps(network.optimizer.get_config()))
    again = keras.saving.load_model(path)
    assert number(again.optimizer.learning_rate) == 0.5
    assert again.optimizer.get_config() == network.optimizer.get_config()
    assert_equal(values(again.optimizer.variables), values(network.optimizer.variables))


class Subclassed(keras.Model):
    """A model that is built at its first batch."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.inner, self.outer = layers.Dense(5, "tanh"), layers.Dense(3)

    def call(self, x):
        return self.outer(self.inner(x))


def test_a_subclassed_model_is_resumed_from_weights(tmp_path):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    models = []
    for seed in (0, 1):
        keras.utils.set_random_seed(seed)
        models.append(Subclassed())
        models[-1].compile(optimizer=optimizer(), loss=loss, **EAGERLY)
        fit(models[-1])
    first, second = models
    first.save_weights(tmp_path / "m.weights.h5")
    second.load_weights(tmp_path / "m.weights.h5")
    for one in models:
        fit(one)
    assert_equal(values(second.weights), values(first.weights))


# Training.


@pytest.mark.parametrize("policy, settings, wrapped", [
    ("mixed_float16", {}, True), ("mixed_float16", {"auto_scale_loss": False}, False),
    ("mixed_bfloat16", {}, False)])
def test_the_loss_is_scaled_where_keras_scales_it(policy, settings, wrapped):
    network = keras.Sequential([keras.Input((4,)), layers.Dense(3, dtype=policy)], name="m")
    network = keras.Model(network.inputs, network.outputs)
    network.dtype_policy = keras.DTypePolicy(policy)
    network.compile(optimizer=optimizer(), loss="mse", **settings)
    assert isinstance(network.optimizer, keras.optimizers.LossScaleOptimizer) == wrapped


def test_small_gradients_do_not_vanish_in_half_precision():
    """Sigmoids in a row: without a scale the first gradient is 0 in float16."""
    def first_kernel(scale):
        network = keras.Sequential([keras.Input((1,)), *(
            layers.Dense(1, "sigmoid", use_bias=False, kernel_initializer="ones",
                         dtype="mixed_float16") for _ in range(12))])
        network.dtype_policy = keras.DTypePolicy("mixed_float16")
        network.compile(optimizer=optimizer(), loss="mse", auto_scale_loss=scale, **EAGERLY)
        network.fit(np.ones((1, 1)), np.ones((1, 1)), verbose=0)
        return values(network.trainable_variables)[0].item()

    assert first_kernel(False) == 1.0 and first_kernel(True) != 1.0


@pytest.mark.jax_only
def test_fit_keeps_no_second_copy_of_variables():
    """While it trains, they live in the loop alone."""
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            # Not `self.model`, which would bring them back.
            seen.extend(v._value for v in (
                *self._model.trainable_variables, *self._model.optimizer.variables))

    fit(compiled(), callbacks=[Watch()])
    assert seen and not any(value is not None for value in seen)


def test_batches_one_by_one_and_validation_split():
    network = compiled()
    x, y = data()
    logs = network.train_on_batch(x, y, sample_weight=np.linspace(0, 2, 32), return_dict=True)
    assert np.isfinite(logs["loss"]) and number(network.optimizer.iterations) == 1
    history = network.fit(x, y, batch_size=8, validation_split=0.25, verbose=0).history
    assert np.isfinite(history["val_loss"]).all() and number(network.optimizer.iterations) == 4


def test_batches_that_weigh_nothing_move_nothing():
    network = compiled()
    before = values(network.weights)
    fit(network, sample_weight=np.zeros(32))
    assert_equal(values(network.weights), before)
    assert number(network.optimizer.skipped_steps) == 0
