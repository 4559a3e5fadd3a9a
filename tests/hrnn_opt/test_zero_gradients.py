"""What has no gradient stays where it is, as with every optimizer of Keras, in real models."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

from hrnn_opt import Direction, EquivariantRNN, LearnedOpt
from hrnn_opt.files.resolve import shipped
from hrnn_opt.registry import network_of
from tests.hrnn_opt.support import apply, gradients, values, variables
from tests.hrnn_opt.support import weights as noisy_weights

SHAPES = ((6, 4), (5, 3))


@pytest.mark.parametrize("weights", shipped())
def test_a_tensor_whose_gradient_is_zero_stays(weights):
    still, moving = tensors = variables(SHAPES)
    before = values(tensors)
    opt = LearnedOpt(weights, seed=0, num_steps=20)
    # Some read it.
    loss = ops.convert_to_tensor(0.5, "float32")
    apply(opt, ([np.zeros(SHAPES[0]), g] for _, g in gradients(20, SHAPES)), tensors, loss=loss)
    opt.finalize_variable_values(tensors)
    np.testing.assert_array_equal(values([still])[0], before[0])
    assert (values([moving])[0] != before[1]).all()


class Stop(layers.Layer):
    def call(self, x):
        return ops.stop_gradient(x)


class Masked(layers.Dense):
    """With weights behind a mask."""

    def build(self, shape):
        super().build(shape)
        self.mask = ~np.eye(*self._kernel.shape, dtype=bool)

    def call(self, x):
        return x @ (self.kernel * ops.cast(self.mask, "float32")) + self.bias


# Shipped weights, and networks by numbers that all matter, inside all rules.
STILL = {
    "rule": "rule",
    "default": "default",
    "paper": "paper",
    "direction": None,
    "equivariant": None,
}


def optimizer_of(name):
    if STILL[name] is not None:
        return LearnedOpt(STILL[name], seed=0)
    core = {"direction": Direction, "equivariant": EquivariantRNN}[name]()
    config = noisy_weights(
        step_size="normalized", averaging=0.9, update_scale_decay=0.99, bounded_updates=True,
        alignment_control=True, rotation_limit=128).config
    made = network_of(type(config)(core.config, config.rules))
    rng = np.random.default_rng(1)
    for variable in made.meta_parameters.values():
        variable.assign(ops.convert_to_numpy(variable) + rng.normal(0, 0.1, variable.shape))
    return LearnedOpt(made, learning_rate=0.01, seed=0)


def trained(model, x, y, optimizer):
    """Values of all weights before and after some steps."""
    model.compile(optimizer=optimizer, loss="mse")
    before = values(model.trainable_weights)
    with warnings.catch_warnings():
        # Of a backbone that gets no gradients, where the backend gives None.
        warnings.simplefilter("ignore")
        model.fit(x, y, batch_size=16, epochs=4, shuffle=False, verbose=0)
    return before, values(model.trainable_weights)


def stays(before, after, unused):
    """What is unused is what it was to the bit, and the rest moves."""
    np.testing.assert_array_equal(after[unused], before[unused])
    assert (after[~unused] != before[~unused]).mean() > 0.95


@pytest.mark.parametrize("weights", [*shipped(), "untrained"])
def test_a_backbone_behind_stop_gradient_keeps_its_values(weights):
    """JAX gives gradients of exactly 0, the others None."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((6,)), layers.Dense(8, "relu"), layers.BatchNormalization(), Stop(),
        layers.Dense(1)])
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    before, after = trained(model, x, np.abs(x[:, :1]), LearnedOpt(weights, seed=0))
    for kept, now in zip(before[:4], after[:4]):
        np.testing.assert_array_equal(now, kept)
    assert (after[4] != before[4]).all()


@pytest.mark.parametrize("name", STILL)
def test_rows_dead_units_and_masked_weights_stay(name):
    keras.utils.set_random_seed(0)
    dead = np.array([0, 0, 1, 0, 1, 0], bool)
    hidden = layers.Dense(
        6, "relu", bias_initializer=lambda shape, dtype=None: ops.cast(
            np.where(dead, -1e4, 3.0), dtype))
    masked = Masked(5)
    model = keras.Sequential([
        keras.Input((3,), dtype="int32"), layers.Embedding(12, 4), layers.Flatten(), hidden, masked,
        layers.Dense(1)])
    rng = np.random.default_rng(0)
    x = rng.integers(0, 7, (64, 3)).astype("int32")
    before, after = trained(
        model, x, rng.normal(size=(64, 1)).astype("float32"), optimizer_of(name))
    unused_rows = np.arange(12)[:, None] >= 7
    stays(before[0], after[0], np.broadcast_to(unused_rows, before[0].shape))
    stays(before[1], after[1], np.broadcast_to(dead, before[1].shape))
    stays(before[2], after[2], dead)
    stays(before[3], after[3], ~masked.mask | dead[:, None])
