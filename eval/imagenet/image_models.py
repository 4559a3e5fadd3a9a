"""The networks of `python -m eval imagenet`: of `keras.applications`, and a small ResNet V2."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable

import keras
from keras import layers

SMALL = "resnetv2_small"
# Height and width of the images that the others were made for is 224.
_SIZES = {SMALL: 32, "inceptionv3": 299, "inceptionresnetv2": 299, "xception": 299,
          "nasnetlarge": 331}


def applications() -> dict[str, Callable[..., keras.Model]]:
    """The models of `keras.applications`, by their names in lower case."""
    return {
        name.lower(): function for name, function in vars(keras.applications).items()
        if inspect.isfunction(function)}


def names() -> list[str]:
    """What `build` takes."""
    return [SMALL, *sorted(applications())]


def own_size(name: str) -> int:
    """The height and width of images that a network was made for."""
    return _SIZES.get(name, 224)


def build(name: str, image_size: int, classes: int) -> keras.Model:
    """A network from uint8 images to float32 logits, whatever the precision in between.

    Args:
        name: one of `names()`.
        image_size: height and width.
        classes: number of logits.

    Raises:
        ValueError: if the network takes no images of this size.
    """
    inputs = keras.Input((image_size, image_size, 3), dtype="uint8", name="image")
    x = keras.ops.cast(inputs, "float32")
    if name == SMALL:
        x = _resnetv2_small(x / 127.5 - 1.0, classes)
    else:
        function = applications()[name]
        # Each network wants its own range of numbers.
        x = sys.modules[function.__module__].preprocess_input(x)
        x = function(weights=None, input_shape=(image_size, image_size, 3), classes=classes,
                     classifier_activation=None)(x)
    return keras.Model(inputs, layers.Activation("linear", dtype="float32", name="logits")(x),
                       name=name)


def _resnetv2_small(x: keras.KerasTensor, classes: int) -> keras.KerasTensor:
    """He et al., "Identity mappings in deep residual networks", 2016, with three blocks of two
    convolutions: 78,000 parameters, for images of some 32 x 32."""

    def conv(x: keras.KerasTensor, filters: int, kernel: int, stride: int = 1) -> keras.KerasTensor:
        return layers.Conv2D(filters, kernel, stride, padding="same", use_bias=False,
                             kernel_initializer="he_normal")(x)

    def activated(x: keras.KerasTensor) -> keras.KerasTensor:
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))

    x = conv(x, 16, 3)
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        inner = activated(x)
        shortcut = x if x.shape[-1] == filters else conv(inner, filters, 1, stride)
        inner = activated(conv(inner, filters, 3, stride))
        x = layers.Add()([shortcut, conv(inner, filters, 3)])
    x = layers.GlobalAveragePooling2D()(activated(x))
    return layers.Dense(classes, name="predictions")(x)
