"""Small convolutional networks as products of matrices, which CPUs are fast at under `vmap`."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp

from problems.datasets import Dataset
from problems.networks import ACTIVATIONS, Classifier, Network, Shapes
from problems.perceptrons import WithGains, normalized
from problems.problem import Array, Instance, Parameters, is_whole, number
from problems.real_data import Pictures
from problems.registry import register

NORMS = "none", "layer", "batch"
Layer = tuple[int, int, int]


def pieces(images: Array, kernel: int, stride: int) -> list[Array]:
    """What each place of a kernel sees: kernel^2 arrays (n, ceil(h / stride), ceil(w / stride), c),
    row by row. There are zeros around the images (n, h, w, c), as with SAME padding."""
    n, height, width, channels = images.shape
    rows, columns = -(-height // stride), -(-width // stride)
    missing = [max((count - 1) * stride + kernel - size, 0)
               for count, size in ((rows, height), (columns, width))]
    around = [(m // 2, m - m // 2) for m in missing]
    padded = jnp.pad(images, ((0, 0), *around, (0, 0)))
    return [
        jax.lax.slice(
            padded, (0, y, x, 0),
            (n, y + (rows - 1) * stride + 1, x + (columns - 1) * stride + 1, channels),
            (1, stride, stride, 1))
        for y in range(kernel) for x in range(kernel)
    ]


def patches(images: Array, kernel: int, stride: int) -> Array:
    """(n, h, w, c) -> (n, ceil(h / stride), ceil(w / stride), kernel * kernel * c).

    A convolution with a bank (kernel, kernel, c, count) is these times the bank as a matrix.
    """
    return jnp.concatenate(pieces(images, kernel, stride), axis=-1)


def convolve(images: Array, bank: Array, stride: int) -> Array:
    """A convolution with the bank (kernel, kernel, channels, count), SAME padding."""
    columns = patches(images, bank.shape[0], stride)
    flat = columns.reshape(-1, columns.shape[-1]) @ bank.reshape(-1, bank.shape[-1])
    return flat.reshape(*columns.shape[:-1], -1)


def is_layers(value: object) -> bool:
    return isinstance(value, tuple) and len(value) > 0 and all(
        isinstance(layer, tuple) and len(layer) == 3 and all(is_whole(s) and s >= 1 for s in layer)
        for layer in value)


@register
@dataclasses.dataclass(frozen=True, repr=False)
class PatchConvNet(WithGains, Classifier):
    """Convolutions, each followed by a normalisation and the activation; the mean over all places;
    one affine layer.

    Args:
      side: the pictures are side x side, in grey.
      classes: number of classes.
      layers: a (kernel, stride, count) for each convolution.
      activation: a name of `networks.ACTIVATIONS`.
      norm: "layer" (over the channels of a place), "batch" (over samples and places of the
        minibatch at hand), both with gain and shift, or "none" (only a shift).
    """

    side: int
    classes: int
    layers: tuple[Layer, ...]
    activation: str = "relu"
    norm: str = "none"
    data: Dataset = dataclasses.field(default=Pictures(), kw_only=True)
    init: str = dataclasses.field(default="he", kw_only=True)
    l2: float = number(0.0, kw_only=True)

    first_logit_only = False

    def check_structure(self) -> None:
        self.require_count("side")
        self.require(
            is_layers(self.layers), "layers",
            "a tuple of (kernel, stride, count) of integers of at least 1")
        self.require(self.norm in NORMS, "norm", f"one of {', '.join(NORMS)}")

    @property
    def data_sizes(self) -> tuple[int, int]:
        return self.side**2, self.classes

    @property
    def shapes(self) -> Shapes:
        shapes: list[tuple[int, ...]] = []
        channels = 1
        for kernel, _, count in self.layers:
            shapes += [(kernel, kernel, channels, count), (count,)]
            if self.norm != "none":
                shapes.append((count,))
            channels = count
        return (*shapes, (channels, self.classes), (self.classes,))

    @property
    def gains(self) -> tuple[int, ...]:
        return () if self.norm == "none" else tuple(range(1, 3 * len(self.layers), 3))

    def logits(self, parameters: Parameters, data: Array) -> Array:
        *tensors, readout, bias = parameters
        rest = iter(tensors)
        hidden = data.reshape(-1, self.side, self.side, 1)
        for _, stride, _ in self.layers:
            hidden = convolve(hidden, next(rest), stride)
            if self.norm == "none":
                hidden = hidden + next(rest)
            else:
                if self.norm == "batch":
                    hidden = hidden - hidden.mean(axis=(0, 1, 2))
                    hidden *= jax.lax.rsqrt(jnp.mean(hidden**2, axis=(0, 1, 2)) + 1e-5)
                    hidden = hidden * next(rest) + next(rest)
                else:
                    hidden = normalized(hidden, next(rest), next(rest))
            hidden = ACTIVATIONS[self.activation](hidden)
        return hidden.mean(axis=(1, 2)) @ readout + bias


def enlarged(images: Array) -> Array:
    """Twice as high and wide: each pixel four times."""
    n, height, width, channels = images.shape
    twice = jnp.broadcast_to(images[:, :, None, :, None], (n, height, 2, width, 2, channels))
    return twice.reshape(n, 2 * height, 2 * width, channels)


@register
@dataclasses.dataclass(frozen=True, repr=False)
class ConvAutoencoder(Network):
    """f = mean over samples and pixels of (x - decode(encode(x)))^2.

    The encoder is convolutions of 3 x 3 and stride 2, each followed by the activation; the decoder
    goes back through as many, each after an enlargement; the last has no activation.

    Args:
      side: the pictures are side x side, in grey.
      channels: after each of the encoder's convolutions.
      activation: a name of `networks.ACTIVATIONS`.
      classes: of pictures in an instance.
    """

    side: int
    channels: tuple[int, ...]
    activation: str = "relu"
    classes: int = 10
    data: Dataset = dataclasses.field(default=Pictures(), kw_only=True)
    init: str = dataclasses.field(default="he", kw_only=True)

    def check_structure(self) -> None:
        self.require_count("side")
        self.require_sizes("channels")
        halvings = 2 ** len(self.channels)
        self.require(self.side % halvings == 0, "side", f"a multiple of {halvings}")

    @property
    def data_sizes(self) -> tuple[int, int]:
        return self.side**2, self.classes

    @property
    def shapes(self) -> Shapes:
        there = (1, *self.channels)
        counts = (*there, *there[-2::-1])
        return tuple(
            shape for a, b in itertools.pairwise(counts) for shape in ((3, 3, a, b), (b,)))

    def loss(
        self, parameters: Parameters, data: Array, labels: Array, instance: Instance
    ) -> Array:
        hidden = data.reshape(-1, self.side, self.side, 1)
        layers = list(zip(parameters[::2], parameters[1::2], strict=True))
        half = len(layers) // 2
        for i, (bank, bias) in enumerate(layers):
            if i < half:
                hidden = convolve(hidden, bank, 2) + bias
            else:
                hidden = convolve(enlarged(hidden), bank, 1) + bias
            if i < len(layers) - 1:
                hidden = ACTIVATIONS[self.activation](hidden)
        return jnp.mean((data - hidden.reshape(data.shape)) ** 2)
