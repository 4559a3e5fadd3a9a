"""The networks that optimizers are evaluated on, as Keras models of images and classes.

The first four are the paper's (section 5.3 and appendix), with the starts of the test problems. The
others are of kinds that no choice of weights was made on: they show how far a result carries.
A network is added by writing one function under `register`, or in `OTHERS` where it is no
classifier of images.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
from keras import layers

Shape = tuple[int, ...]
Builder = Callable[[Shape, int], keras.Model]

NETWORKS: dict[str, Builder] = {}
PAPER = ("mlp_sigmoid", "mlp_relu", "conv_sigmoid", "conv_relu")


def register(function: Builder) -> Builder:
    """Make a function of input shape and number of classes known under its name."""
    NETWORKS[function.__name__] = function
    return function


def build(network: str | Builder, input_shape: Shape = (28, 28, 1), classes: int = 10,
          seed: int = 0) -> keras.Model:
    """A new network that maps images to logits.

    Args:
        network: one of `NETWORKS`, `OTHERS` or `LARGE`, or a function like theirs.
        input_shape: height, width and channels of an image, or the length of a text.
        classes: number of logits; the vocabulary of a text.
        seed: draws the start values. It seeds Keras's, NumPy's and Python's global generators.
    """
    keras.utils.set_random_seed(seed)
    if isinstance(network, str):
        network = {**NETWORKS, **OTHERS, **LARGE}[network]
    return network(input_shape, classes)


def _by_first_dimension(shape: Shape, dtype: str | None = None) -> keras.KerasTensor:
    """N(0, (1.2 / sqrt(first dimension))^2), which the test problems' MLPs start from."""
    return keras.initializers.RandomNormal(stddev=1.2 * shape[0] ** -0.5)(shape, dtype)


def _small(shape: Shape, dtype: str | None = None) -> keras.KerasTensor:
    """N(0, 0.01^2), which the test problems' convnets start from."""
    return keras.initializers.RandomNormal(stddev=0.01)(shape, dtype)


def _mlp(input_shape: Shape, classes: int, activation: str) -> keras.Model:
    start = {"kernel_initializer": _by_first_dimension, "bias_initializer": _by_first_dimension}
    return keras.Sequential([
        keras.Input(input_shape),
        layers.Flatten(),
        layers.Dense(64, activation, **start),
        layers.Dense(classes, **start),
    ])


def _conv(input_shape: Shape, classes: int, activation: str) -> keras.Model:
    hidden = {"padding": "same", "use_bias": False, "kernel_initializer": _small,
              "activation": activation}
    return keras.Sequential([
        keras.Input(input_shape),
        layers.Conv2D(8, 3, **hidden),
        layers.Conv2D(8, 5, **hidden),
        layers.Flatten(),
        layers.Dense(classes, kernel_initializer=_small, bias_initializer=_small),
    ])


@register
def mlp_sigmoid(input_shape: Shape, classes: int) -> keras.Model:
    """One hidden layer of 64 sigmoid units: 50,890 parameters on MNIST."""
    return _mlp(input_shape, classes, "sigmoid")


@register
def mlp_relu(input_shape: Shape, classes: int) -> keras.Model:
    """One hidden layer of 64 ReLU units."""
    return _mlp(input_shape, classes, "relu")


@register
def conv_sigmoid(input_shape: Shape, classes: int) -> keras.Model:
    """Two convolutions, 3 x 3 and 5 x 5 with 8 sigmoid filters each, and an affine layer."""
    return _conv(input_shape, classes, "sigmoid")


@register
def conv_relu(input_shape: Shape, classes: int) -> keras.Model:
    """Two convolutions, 3 x 3 and 5 x 5 with 8 ReLU filters each, and an affine layer."""
    return _conv(input_shape, classes, "relu")


@register
def mlp_deep_tanh(input_shape: Shape, classes: int) -> keras.Model:
    """Three hidden layers of 128 tanh units, with Keras's own start values. For validation."""
    return keras.Sequential([
        keras.Input(input_shape),
        layers.Flatten(),
        *[layers.Dense(128, "tanh") for _ in range(3)],
        layers.Dense(classes),
    ])


@register
def conv_bn_relu(input_shape: Shape, classes: int) -> keras.Model:
    """A small strided residual convnet with batch normalisation. For validation."""

    def normalise(x: keras.KerasTensor) -> keras.KerasTensor:
        # Averages over some 10 batches follow the parameters from the first steps on.
        return layers.BatchNormalization(momentum=0.9)(x)

    def block(x: keras.KerasTensor, filters: int) -> keras.KerasTensor:
        shortcut = layers.Conv2D(filters, 1, strides=2, use_bias=False)(x)
        x = layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.Activation("relu")(normalise(x))
        x = normalise(layers.Conv2D(filters, 3, padding="same", use_bias=False)(x))
        return layers.Activation("relu")(layers.Add()([x, shortcut]))

    inputs = keras.Input(input_shape)
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(inputs)
    x = layers.Activation("relu")(normalise(x))
    x = block(x, 16)
    x = block(x, 32)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(classes)(x))


@register
def rows_gru(input_shape: Shape, classes: int) -> keras.Model:
    """A recurrent net of 64 GRU units that reads an image row by row, and an affine layer."""
    return keras.Sequential([
        keras.Input(input_shape),
        layers.Reshape((input_shape[0], -1)),
        layers.GRU(64),
        layers.Dense(classes),
    ])


def autoencoder(input_shape: Shape, classes: int) -> keras.Model:
    """Images to logits of their own pixels, through 32 numbers between layers of 128 tanh units."""
    del classes
    return keras.Sequential([
        keras.Input(input_shape),
        layers.Flatten(),
        layers.Dense(128, "tanh"),
        layers.Dense(32),
        layers.Dense(128, "tanh"),
        layers.Dense(math.prod(input_shape)),
        layers.Reshape(input_shape),
    ])


def transformer(input_shape: Shape, classes: int, width: int = 64) -> keras.Model:
    """A language model: two blocks of four heads, normalised before each part."""
    (length,) = input_shape
    tokens = keras.Input(input_shape, dtype="int32")
    places = keras.ops.cumsum(keras.ops.ones_like(tokens), axis=1) - 1
    x = layers.Embedding(classes, width)(tokens) + layers.Embedding(length, width)(places)
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(4, width // 4)(y, y, use_causal_mask=True)
        y = layers.LayerNormalization()(x)
        x = x + layers.Dense(width)(layers.Dense(4 * width, "gelu")(y))
    return keras.Model(tokens, layers.Dense(classes)(layers.LayerNormalization()(x)))


# Those that are trained on something else than classes of images.
OTHERS: dict[str, Builder] = {
    "autoencoder": autoencoder, "transformer": transformer}


def resnet18(input_shape: Shape, classes: int, width: int = 64) -> keras.Model:
    """ResNet-18 as it is for small images: the first convolution is 3 x 3, and nothing is pooled
    before the end (He et al. 2016, section 4.2)."""

    def convolve(x: keras.KerasTensor, filters: int, size: int, strides: int) -> keras.KerasTensor:
        x = layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization(momentum=0.9)(x)

    def block(x: keras.KerasTensor, filters: int, strides: int) -> keras.KerasTensor:
        shortcut = x
        if strides > 1 or x.shape[-1] != filters:
            shortcut = convolve(x, filters, 1, strides)
        x = layers.Activation("relu")(convolve(x, filters, 3, strides))
        return layers.Activation("relu")(layers.Add()([convolve(x, filters, 3, 1), shortcut]))

    inputs = keras.Input(input_shape)
    x = layers.Activation("relu")(convolve(inputs, width, 3, 1))
    for stage in range(4):
        x = block(x, width * 2**stage, 1 if stage == 0 else 2)
        x = block(x, width * 2**stage, 1)
    return keras.Model(inputs, layers.Dense(classes)(layers.GlobalAveragePooling2D()(x)))


def resnet18_narrow(input_shape: Shape, classes: int) -> keras.Model:
    """The same with an eighth of the filters, which a CPU trains for some hundred steps."""
    return resnet18(input_shape, classes, width=8)


# Those that want an accelerator, and their like.
LARGE: dict[str, Builder] = {
    "resnet18": resnet18, "resnet18_narrow": resnet18_narrow}
