"""Tasks as users have them, of kinds and on data that no rule or weights were chosen on.

Greek letters in eight fonts, a play, ratings, a table and an equation: each with a network, and
three that are trained already and tuned further, as Latin letters and a manual had taught them.
`TASKS` has all. A task is added by two functions, its network and its data.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from eval.runs import networks
from eval.runs.data import Data, text
from hrnn_opt import refresh_statistics

Shape = tuple[int, ...]
_TEXT, _CHARACTERS = 32, 128
# Of MobileNetV2, for each picture.
_FEATURES = 1280


# Data. What several tasks have is the same object, so that one pool of processes serves them, and
# networks are taught once in each.

def _glyphs(name: str, fonts: slice, examples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Letters of the fonts in pixels of three by three, moved by up to two, in noise."""
    from problems.real_data import BRIGHTEST_LETTER, arrays

    tiles = arrays()[name][:, fonts].astype("float32") / BRIGHTEST_LETTER
    rng = np.random.default_rng(seed)
    classes = rng.integers(len(tiles), size=examples)
    found = np.kron(tiles[classes, rng.integers(tiles.shape[1], size=examples)], np.ones((3, 3)))
    moves = rng.integers(-2, 3, size=(examples, 2))
    found = np.stack([np.roll(one, move, (0, 1)) for one, move in zip(found, moves)])
    found += 0.2 * rng.standard_normal(found.shape)
    return found[..., None].astype("float32"), classes.astype("int32")


@functools.cache
def greek() -> Data:
    """29 Greek letters of 36 x 36 pixels in six fonts, and in two others to test on."""
    return Data(*_glyphs("held_out_letters", slice(6), 4096, 0),
                *_glyphs("held_out_letters", slice(6, None), 1024, 1))


@functools.cache
def play() -> Data:
    """Pieces of Shakespeare's "As You Like It", each character with the next one; the last eighth
    to test on."""
    from problems.real_data import arrays

    codes = arrays()["held_out_text_as_you_like_it"].astype("int32")
    count = (len(codes) - 1) // _TEXT
    x, y = (codes[first : first + count * _TEXT].reshape(count, _TEXT) for first in (0, 1))
    split = count * 7 // 8
    return Data(x[:split], y[:split], x[split:], y[split:])


def ratings() -> Data:
    """Who gave what how many of five stars: products of eight hidden numbers, with noise."""
    rng = np.random.default_rng(0)
    people, things = (rng.standard_normal((count, 8)) for count in (500, 300))
    pairs = np.stack([rng.integers(500, size=20_000), rng.integers(300, size=20_000)], 1)
    scores = (people[pairs[:, 0]] * things[pairs[:, 1]]).sum(1) + rng.standard_normal(20_000)
    stars = np.digitize(scores, np.quantile(scores, (0.1, 0.3, 0.7, 0.9)))
    x, y = pairs.astype("int32"), stars.astype("int32")
    return Data(x[:17_000], y[:17_000], x[17_000:], y[17_000:])


def shuttle() -> Data:
    """A sensor of NASA's shuttle, foretold from the others; all of mean 0 and deviation 1."""
    from problems.real_data import arrays

    table = arrays()["held_out_table_shuttle_classes"].astype("float32")[:, :-1]
    table = np.random.default_rng(0).permutation(table)
    table = (table - table.mean(0)) / (table.std(0) + 1e-6)
    x, y = table[:, 1:], table[:, :1]
    return Data(x[:832], y[:832], x[832:], y[832:])


def burgers() -> Data:
    """Places x in [-1, 1] and times t in [0, 1] where an equation shall hold: residuals of 0."""
    rng = np.random.default_rng(0)
    x = np.stack([rng.uniform(-1, 1, 5120), rng.uniform(0, 1, 5120)], 1).astype("float32")
    y = np.zeros((5120, 1), "float32")
    return Data(x[:4096], y[:4096], x[4096:], y[4096:])


# Networks.

def squares(model: keras.Model) -> keras.Model:
    """The model, which is to be trained by the squares of outputs less targets."""
    model.squares = True
    return model


def patch_transformer(input_shape: Shape, classes: int) -> keras.Model:
    """Pieces of 6 x 6 pixels, two blocks of width 48, their mean."""
    inputs = keras.Input(input_shape)
    x = layers.Conv2D(48, 6, strides=6)(inputs)
    x = layers.Reshape((-1, 48))(x)
    places = ops.cumsum(ops.ones_like(x[..., 0], dtype="int32"), axis=1) - 1
    x = x + layers.Embedding(x.shape[1], 48)(places)
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(4, 12)(y, y)
        y = layers.LayerNormalization()(x)
        x = x + layers.Dense(48)(layers.Dense(96, "gelu")(y))
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(classes)(x))


def text_lstm(input_shape: Shape, classes: int) -> keras.Model:
    """A language model of 64 LSTM units over embeddings of 32."""
    return keras.Sequential([
        keras.Input(input_shape, dtype="int32"),
        layers.Embedding(classes, 32),
        layers.LSTM(64, return_sequences=True),
        layers.Dense(classes),
    ])


def factors(input_shape: Shape, classes: int) -> keras.Model:
    """A person's and a thing's embedding of 16, their product and both through a layer of 32."""
    pairs = keras.Input(input_shape, dtype="int32")
    person = layers.Embedding(500, 16)(pairs[:, 0])
    thing = layers.Embedding(300, 16)(pairs[:, 1])
    x = layers.Concatenate()([person * thing, person, thing])
    return keras.Model(pairs, layers.Dense(classes)(layers.Dense(32, "relu")(x)))


def regressor(input_shape: Shape, classes: int) -> keras.Model:
    """Two hidden layers of 64 units, one number."""
    del classes
    return squares(keras.Sequential([
        keras.Input(input_shape), layers.Dense(64, "silu"), layers.Dense(64, "silu"),
        layers.Dense(1)]))


class _Jets(layers.Layer):
    """A layer of tanh units on a function's value, its derivatives by x and t, and the second by
    x: (B, 4, inputs) to (B, 4, units)."""

    def __init__(self, units: int, linear: bool = False) -> None:
        super().__init__()
        self.dense = layers.Dense(units, use_bias=False)
        self.units, self.linear = units, linear

    def build(self, shape: Shape) -> None:
        self.dense.build(shape)
        self.shift = self.add_weight(shape=(self.units,), initializer="zeros", name="shift")

    def call(self, jets: Any) -> Any:
        z, z_x, z_t, z_xx = ops.unstack(self.dense(jets), axis=1)
        y = z + self.shift
        if self.linear:
            return ops.stack([y, z_x, z_t, z_xx], axis=1)
        y = ops.tanh(y)
        slope = 1 - ops.square(y)
        y_xx = slope * (z_xx - 2 * y * ops.square(z_x))
        return ops.stack([y, slope * z_x, slope * z_t, y_xx], axis=1)


class _Residual(layers.Layer):
    """What Burgers' equation u_t + u u_x = 0.05 u_xx lacks, of u = t (1 - x^2) n - sin(pi x),
    which has its start and its ends from the form; n is a network's."""

    def call(self, inputs: tuple[Any, Any]) -> Any:
        places, jets = inputs
        x, t = places[:, 0], places[:, 1]
        n, n_x, n_t, n_xx = ops.unstack(jets[..., 0], axis=1)
        bow = 1 - ops.square(x)
        sine, cosine = ops.sin(np.pi * x), ops.cos(np.pi * x)
        u = t * bow * n - sine
        u_x = t * (bow * n_x - 2 * x * n) - np.pi * cosine
        u_t = bow * (n + t * n_t)
        u_xx = t * (bow * n_xx - 4 * x * n_x - 2 * n) + np.pi**2 * sine
        return ops.expand_dims(u_t + u * u_x - 0.05 * u_xx, -1)


def physics(input_shape: Shape, classes: int) -> keras.Model:
    """Residuals of an equation at places and times, of a network of three layers of 32."""
    del classes
    places = keras.Input(input_shape)
    ones, zeros = ops.ones_like(places[:, 0]), ops.zeros_like(places[:, 0])
    by_x, by_t = (ops.stack(pair, axis=1) for pair in ((ones, zeros), (zeros, ones)))
    jets = ops.stack([places, by_x, by_t, ops.zeros_like(places)], axis=1)
    for _ in range(3):
        jets = _Jets(32)(jets)
    return squares(keras.Model(places, _Residual()((places, _Jets(1, linear=True)(jets)))))


# Networks that are trained already.

def _backbone(input_shape: Shape) -> keras.Model:
    return keras.applications.MobileNetV2(
        input_shape=(*input_shape[:2], 3), alpha=0.35, include_top=False, weights=None,
        pooling="avg")


def _with_head(backbone: keras.Model, input_shape: Shape, classes: int) -> keras.Model:
    inputs = keras.Input(input_shape)
    return keras.Model(inputs, layers.Dense(classes)(
        backbone(layers.Concatenate()([inputs] * 3))))


@functools.cache
def _taught_weights(name: str) -> list[np.ndarray]:
    """What Adam has made of a network on other data, the same at each call."""
    from eval.runs import runner

    keras.utils.set_random_seed(1)
    if name == "letters":
        pictures = _glyphs("letters", slice(None), 8192, 2)
        data = Data(*pictures, *(part[:500] for part in pictures))
        taught = _backbone((36, 36))
        model = _with_head(taught, (36, 36, 1), 52)
    else:
        data = text(2048)
        model = taught = networks.transformer((_TEXT,), _CHARACTERS)
    runner.train(model, keras.optimizers.Adam(2e-3), data, steps=600, batch_size=32, seed=1)
    # MobileNet's moving statistics remember a thousand steps, the start among them.
    refresh_statistics(model, data.x_train[:2048])
    return taught.get_weights()


def _taught(name: str, make: Callable[[], keras.Model]) -> keras.Model:
    """A network with these weights. What is drawn after it does not depend on whether they had to
    be made."""
    seed = int(np.random.randint(2**31))
    weights = _taught_weights(name)
    model = make()
    model.set_weights(weights)
    keras.utils.set_random_seed(seed)
    return model


def tuned_layer(input_shape: Shape, classes: int) -> keras.Model:
    """A new layer on what a trained network that stays as it is makes of the inputs."""
    del input_shape
    return keras.Sequential([keras.Input((_FEATURES,)), layers.Dense(classes)])


@functools.cache
def features() -> Data:
    """What MobileNetV2 that has learned Latin letters makes of the Greek ones: seen once, since
    nothing in it changes, as by who tunes a layer on a frozen network."""
    data = greek()
    backbone = _taught("letters", lambda: _backbone(data.x_train.shape[1:]))
    x_train, x_test = (
        backbone.predict(np.repeat(x, 3, axis=-1), batch_size=256, verbose=0)
        for x in (data.x_train, data.x_test))
    return Data(x_train, data.y_train, x_test, data.y_test)


def tuned_whole(input_shape: Shape, classes: int) -> keras.Model:
    """MobileNetV2 that has learned Latin letters under a new layer, all of it trained further."""
    backbone = _taught("letters", lambda: _backbone(input_shape))
    return _with_head(backbone, input_shape, classes)


def tuned_adapters(input_shape: Shape, classes: int) -> keras.Model:
    """A language model that has learned a manual, with adapters of rank 4 on dense layers, whose
    biases are trained too; all else stays as it is."""
    del classes
    model = _taught("manual", lambda: networks.transformer(input_shape, _CHARACTERS))
    for layer in model.layers:
        if isinstance(layer, layers.Dense):
            layer.enable_lora(4)
        else:
            layer.trainable = False
    return model


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained.

    Attributes:
        network: from the shape of an input and the number of classes.
        data: what to train and test on.
        steps: of a run.
        seen: what the network is given in place of the inputs, made of them once in a process.
    """

    network: Callable[[Shape, int], keras.Model]
    data: Callable[[], Data]
    steps: int = 1000
    seen: Callable[[], Data] | None = None


TASKS: dict[str, Task] = {
    "letters_residual": Task(networks.conv_bn_relu, greek),
    "letters_transformer": Task(patch_transformer, greek),
    "play_lstm": Task(text_lstm, play),
    "play_transformer": Task(networks.transformer, play),
    "ratings": Task(factors, ratings),
    "shuttle": Task(regressor, shuttle),
    "burgers": Task(physics, burgers),
    "tuned_layer": Task(tuned_layer, greek, 200, seen=features),
    "tuned_whole": Task(tuned_whole, greek, 200),
    "tuned_adapters": Task(tuned_adapters, play, 200),
    "letters_resnet18": Task(networks.resnet18_narrow, greek, 200),
}
