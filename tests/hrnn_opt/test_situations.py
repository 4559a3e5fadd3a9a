"""Situations that users of Keras get into, each as they would write it: docs/compatibility.md lists
them."""

import copy
import functools
import pickle
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

from hrnn_opt import HierarchicalLOpt
from tests.hrnn_opt.support import optimizer

BACKEND = keras.backend.backend()


@pytest.fixture
def new():
    """A function that makes the optimizer."""
    return functools.partial(HierarchicalLOpt, seed=0)


@pytest.fixture
def data():
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    return x, np.abs(x[:, :1])


def network(seed=1):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([
        keras.Input((4,)), layers.Dense(8, "tanh", name="first"), layers.Dense(1, name="last")])


def values(model):
    return [ops.convert_to_numpy(v).copy() for v in model.variables]


def fit(model, data, epochs=2, **settings):
    return model.fit(*data, epochs=epochs, batch_size=16, verbose=0, shuffle=False,
                     **settings).history["loss"]


def test_layers_frozen_and_freed_between_fits(new, data):
    model = network()
    model.get_layer("first").trainable = False
    model.compile(optimizer=new(), loss="mse")
    frozen = ops.convert_to_numpy(model.get_layer("first").kernel).copy()
    fit(model, data)
    np.testing.assert_array_equal(ops.convert_to_numpy(model.get_layer("first").kernel), frozen)
    model.get_layer("first").trainable = True
    model.compile(optimizer=new(), loss="mse")
    losses = fit(model, data, 4)
    assert losses[-1] < losses[0]
    assert np.abs(ops.convert_to_numpy(model.get_layer("first").kernel) - frozen).max() > 1e-4


@pytest.mark.skipif(BACKEND == "jax", reason="there Keras takes all of an optimizer's variables")
def test_the_same_optimizer_goes_on_where_a_layer_is_frozen_later(new, data):
    model, opt = network(), new()
    model.compile(optimizer=opt, loss="mse")
    fit(model, data)
    model.get_layer("first").trainable = False
    model.compile(optimizer=opt, loss="mse")
    kept = ops.convert_to_numpy(model.get_layer("first").kernel).copy()
    losses = fit(model, data, 3)
    np.testing.assert_array_equal(ops.convert_to_numpy(model.get_layer("first").kernel), kept)
    assert np.all(np.isfinite(losses)) and losses[-1] < losses[0]


def test_low_rank_adapters(new, data):
    model = network()
    model.compile(optimizer=new(), loss="mse")
    fit(model, data)
    layer = model.get_layer("first")
    layer.enable_lora(2)
    model.compile(optimizer=new(), loss="mse")
    kernel = ops.convert_to_numpy(layer._kernel).copy()
    before = ops.convert_to_numpy(layer.lora_kernel_b).copy()
    losses = fit(model, data, 4)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer._kernel), kernel)
    assert np.abs(ops.convert_to_numpy(layer.lora_kernel_b) - before).max() > 0
    assert losses[-1] < losses[0]


def test_a_layer_that_is_used_twice(new, data):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    shared = layers.Dense(4, "tanh")
    model = keras.Model(inputs, layers.Dense(1)(shared(shared(inputs))))
    model.compile(optimizer=new(), loss="mse")
    losses = fit(model, data, 6)
    assert losses[-1] < losses[0]


class Adversaries(keras.Model):
    """Two networks that train against each other, an optimizer each, in one step."""

    def __init__(self, optimizers):
        super().__init__()
        keras.utils.set_random_seed(0)
        self.generator = keras.Sequential([keras.Input((2,)), layers.Dense(4)])
        self.critic = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
        self.both, self.built = optimizers, True

    def loss_of(self, x, sign):
        fake = self.generator(x[:, :2])
        return sign * (ops.mean(self.critic(x)) - ops.mean(self.critic(fake))) + ops.mean(
            ops.square(self.critic(fake))) * (sign > 0)

    def gradients(self, x, network, sign):
        if BACKEND == "tensorflow":
            import tensorflow as tf

            with tf.GradientTape() as tape:
                loss = self.loss_of(x, sign)
            return tape.gradient(loss, network.trainable_weights)
        import torch

        gradients = torch.autograd.grad(
            self.loss_of(x, sign), [v.value for v in network.trainable_weights])
        return list(gradients)

    def train_step(self, *batch):
        x = batch[-1][0] if isinstance(batch[-1], tuple) else batch[-1]
        for part, opt, sign in zip((self.generator, self.critic), self.both, (-1.0, 1.0)):
            gradients = self.gradients(x, part, sign)
            if BACKEND == "torch":
                import torch

                with torch.no_grad():
                    opt.apply(gradients, part.trainable_weights)
            else:
                opt.apply(gradients, part.trainable_weights)
        return {"loss": self.loss_of(x, 1.0)}


@pytest.mark.skipif(BACKEND == "jax", reason="on JAX such a step is a function of states")
def test_two_optimizers_in_a_step_of_ones_own(new, data):
    model = Adversaries([new(), new()])
    for opt, part in zip(model.both, (model.generator, model.critic)):
        opt.build(part.trainable_variables)
    model.compile()
    before = [values(part) for part in (model.generator, model.critic)]
    model.fit(data[0], epochs=2, batch_size=16, verbose=0)
    for part, old in zip((model.generator, model.critic), before):
        assert all(np.abs(a - b).max() > 0 for a, b in zip(values(part), old))
        assert all(np.all(np.isfinite(value)) for value in values(part))


def test_a_clone_is_a_model_of_its_own(new, data):
    model = network()
    model.compile(optimizer=new(), loss="mse")
    fit(model, data)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    clone.compile(optimizer=new(), loss="mse")
    before = values(model)
    fit(clone, data)
    for a, b in zip(values(model), before):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))],
                         ids=["deepcopy", "pickle"])
def test_a_copy_of_a_compiled_model_trains_on_to_the_same_numbers(new, data, how):
    model = network()
    model.compile(optimizer=new(), loss="mse")
    fit(model, data)
    twin = how(model)
    losses = fit(model, data), fit(twin, data)
    np.testing.assert_allclose(*losses, rtol=1e-6)
    for a, b in zip(values(model), values(twin)):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_an_interrupted_fit_leaves_a_model_that_trains_on(new, data):
    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                raise KeyboardInterrupt

    model = network()
    model.compile(optimizer=new(), loss="mse")
    first = model.evaluate(*data, verbose=0)
    with pytest.raises(KeyboardInterrupt):
        fit(model, data, callbacks=[Interrupt()])
    assert int(model.optimizer.iterations) == 3
    fit(model, data, 4)
    assert model.evaluate(*data, verbose=0) < first


def test_weights_of_a_model_that_another_optimizer_trained(new, data, tmp_path):
    other = network()
    other.compile(optimizer="adam", loss="mse")
    fit(other, data)
    other.save_weights(tmp_path / "w.weights.h5")
    model = network(seed=5)
    model.compile(optimizer=new(), loss="mse")
    model.load_weights(tmp_path / "w.weights.h5")
    for a, b in zip(model.get_weights(), other.get_weights()):
        np.testing.assert_array_equal(a, b)
    losses = fit(model, data, 3)
    assert losses[-1] < losses[0]


@pytest.mark.filterwarnings("ignore:Skipping variable loading")
@pytest.mark.parametrize("change", [
    lambda model: setattr(model.get_layer("first"), "trainable", False),
    lambda model: model.quantize("int8"),
], ids=["frozen", "quantized"])
def test_a_model_saved_with_fewer_trainable_weights_than_it_was_compiled_with(
    new, data, tmp_path, change
):
    model = network()
    model.compile(optimizer=new(), loss="mse")
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(7)
    change(model)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(
        again.predict(data[0], verbose=0), model.predict(data[0], verbose=0), rtol=1e-5, atol=1e-6)
    # The optimizer starts anew, as Adam does.
    assert int(again.optimizer.iterations) == 0


def test_a_weights_file_holds_the_optimizer_where_it_is_built(data, tmp_path):
    """Before the first step it is not, as with every optimizer of Keras: build it."""
    model, built, other = network(), network(2), network(2)
    for each in (model, built, other):
        each.compile(optimizer=optimizer(), loss="mse")
    model.train_on_batch(*data)
    model.save_weights(tmp_path / "m.weights.h5")
    built.optimizer.build(built.trainable_variables)
    with warnings.catch_warnings():
        # Of what the optimizer of the other one does not take.
        warnings.simplefilter("ignore")
        for each in (built, other):
            each.load_weights(tmp_path / "m.weights.h5")
    assert built.optimizer.iterations == 1 and other.optimizer.iterations == 0
    for each in (model, built):
        each.train_on_batch(*data)
    for theirs, ours in zip(values(model), values(built)):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.filterwarnings("ignore:.*trainable")
def test_nothing_to_train_and_a_last_batch_of_one_example(data):
    x, y = data
    model = network()
    model.trainable = False
    model.compile(optimizer=optimizer(), loss="mse")
    before = values(model)
    fit(model, (x[:17], y[:17]), 1)
    for now, then in zip(values(model), before):
        np.testing.assert_array_equal(now, then)
    model.trainable = True
    model.compile(optimizer=optimizer(), loss="mse")
    losses = fit(model, (x[:17], y[:17]), 4)
    assert np.all(np.isfinite(losses)) and losses[-1] < losses[0]


def test_large_tables_may_have_another_optimizer(new):
    keras.utils.set_random_seed(0)
    table, adam, ours = layers.Embedding(100, 4, name="table"), keras.optimizers.Adam(0.01), new()
    model = keras.Sequential([keras.Input((3,), dtype="int32"), table, layers.Flatten(),
                              layers.Dense(1)])
    # As docs/compatibility.md recommends it.
    model.compile(loss="mse", optimizer=keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(ours, {".*table/.*": adam})))
    x = np.random.default_rng(0).integers(0, 100, (64, 3)).astype("int32")
    losses = fit(model, (x, (x.sum(1, keepdims=True) % 7).astype("float32")), 4)
    assert losses[-1] < losses[0]
    assert [v.path for v in adam._trainable_variables] == [table.embeddings.path]
    assert len(ours._trainable_variables) == 2


def test_a_backbone_of_keras_hub(new, tmp_path):
    hub = pytest.importorskip("keras_hub", reason="KerasHub is not installed")
    keras.utils.set_random_seed(0)
    backbone = hub.models.GPT2Backbone(
        vocabulary_size=20, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=8,
        max_sequence_length=6, dropout=0.0)
    model = keras.Model(backbone.inputs, backbone.token_embedding(backbone.output, reverse=True))
    model.compile(
        optimizer=new(), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    tokens = (np.arange(7) * np.arange(1, 65)[:, None] % 20).astype("int32")
    batch = {"token_ids": tokens[:, :-1], "padding_mask": np.ones((64, 6), "int32")}, tokens[:, 1:]
    losses = fit(model, batch, 8)
    assert losses[-1] < losses[0]
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert fit(again, batch) == fit(model, batch)
