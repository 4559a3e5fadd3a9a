"""`small_real_valid`: small networks of kinds, and on data, that no training suite has.

For judging learned weights, never for learning them. Nothing is rescaled here: the tasks are as
a user would state them.
"""

import dataclasses

import jax
import jax.numpy as jnp

from problems.datasets import Dataset
from problems.networks import (
    ACTIVATIONS,
    Classifier,
    FullyConnected,
    Network,
    Shapes,
    affine_layers,
    cross_entropy,
)
from problems.patch_convnet import patches, pieces
from problems.perceptrons import WithGains, normalized
from problems.problem import Array, Instance, Parameters, Problem, number
from problems.real_data import HeldOutPictures, HeldOutTables, HeldOutText
from problems.registry import register
from problems.sequences import LanguageModel


@dataclasses.dataclass(frozen=True, repr=False)
class _Plain(Classifier):
    """A classifier without a penalty, under the softmax of all its classes.

    Args:
      features: of a sample.
      classes: number of classes.
      width: units of a layer.
    """

    features: int
    classes: int
    width: int
    data: Dataset = dataclasses.field(default=HeldOutPictures(), kw_only=True)
    init: str = dataclasses.field(default="glorot", kw_only=True)
    l2: float = number(0.0, kw_only=True)

    first_logit_only = False

    def check_structure(self) -> None:
        self.require_count("width")

    @property
    def data_sizes(self) -> tuple[int, int]:
        return self.features, self.classes


@dataclasses.dataclass(frozen=True, repr=False)
class _PictureNetwork(_Plain):
    """`features` is the side of the picture: a picture has features^2 pixels."""

    @property
    def data_sizes(self) -> tuple[int, int]:
        return self.features**2, self.classes

    def pictures(self, data: Array) -> Array:
        return data.reshape(-1, self.features, self.features, 1)


@register
@dataclasses.dataclass(frozen=True, repr=False)
class ResidualPerceptron(_Plain):
    """x = a W + b; x = x + relu(x U + c) V + d for each block; one affine layer."""

    blocks: int = 3

    def check_structure(self) -> None:
        super().check_structure()
        self.require_count("blocks")

    @property
    def shapes(self) -> Shapes:
        w = self.width
        block = (w, w), (w,), (w, w), (w,)
        return (self.features, w), (w,), *(block * self.blocks), (w, self.classes), (self.classes,)

    def logits(self, parameters: Parameters, data: Array) -> Array:
        x = data @ parameters[0] + parameters[1]
        for i in range(2, len(parameters) - 2, 4):
            x = x + affine_layers(parameters[i : i + 4], x, jax.nn.relu)
        return x @ parameters[-2] + parameters[-1]


@register
@dataclasses.dataclass(frozen=True, repr=False)
class GatedPerceptron(_Plain):
    """Two layers x = silu(x U) * (x V), then one affine layer."""

    @property
    def shapes(self) -> Shapes:
        f, w = self.features, self.width
        return (f, w), (f, w), (w, w), (w, w), (w, self.classes), (self.classes,)

    def logits(self, parameters: Parameters, data: Array) -> Array:
        gate, value, second_gate, second_value, readout, bias = parameters
        x = jax.nn.silu(data @ gate) * (data @ value)
        x = jax.nn.silu(x @ second_gate) * (x @ second_value)
        return x @ readout + bias


@register
@dataclasses.dataclass(frozen=True, repr=False)
class Mixture(_Plain):
    """Experts, perceptrons with one hidden layer of tanh, weighted by a softmax gate."""

    experts: int = 4

    def check_structure(self) -> None:
        super().check_structure()
        self.require_count("experts")

    @property
    def shapes(self) -> Shapes:
        f, w, c, e = self.features, self.width, self.classes, self.experts
        return (f, e), (e,), (e, f, w), (e, w), (e, w, c), (e, c)

    def logits(self, parameters: Parameters, data: Array) -> Array:
        gate, gate_bias, up, up_bias, down, down_bias = parameters
        weights = jax.nn.softmax(data @ gate + gate_bias)
        hidden = jnp.tanh(data @ up + up_bias[:, None])
        answers = hidden @ down + down_bias[:, None]
        return jnp.einsum("ne,enc->nc", weights, answers)


@register
@dataclasses.dataclass(frozen=True, repr=False)
class ElmanReader(_PictureNetwork):
    """h' = tanh(row W + h U + b) over the rows of a picture; the last h is read out."""

    @property
    def shapes(self) -> Shapes:
        w = self.width
        return (self.features, w), (w, w), (w,), (w, self.classes), (self.classes,)

    def logits(self, parameters: Parameters, data: Array) -> Array:
        inward, recurrent, bias, readout, readout_bias = parameters
        rows = jnp.swapaxes(self.pictures(data)[..., 0], 0, 1) @ inward + bias

        def step(state, row):
            return jnp.tanh(row + state @ recurrent), None

        state, _ = jax.lax.scan(step, jnp.zeros((len(data), self.width)), rows)
        return state @ readout + readout_bias


@register
@dataclasses.dataclass(frozen=True, repr=False)
class Mixer(WithGains, _PictureNetwork):
    """Patches of 2 x 2 pixels; blocks of a perceptron over the patches and one over their units,
    each after a layer normalisation and added to its input; the mean over patches is read out.

    Source: Tolstikhin et al. 2021, "MLP-Mixer".
    """

    blocks: int = 2

    def check_structure(self) -> None:
        super().check_structure()
        self.require_count("blocks")
        self.require(self.features % 2 == 0, "features", "even")

    @property
    def shapes(self) -> Shapes:
        w, count = self.width, (self.features // 2) ** 2

        def perceptron(size: int) -> Shapes:
            return (w,), (w,), (size, 24), (24,), (24, size), (size,)

        block = *perceptron(count), *perceptron(w)
        return (4, w), (w,), *(block * self.blocks), (w, self.classes), (self.classes,)

    @property
    def gains(self) -> tuple[int, ...]:
        return tuple(range(2, 2 + 12 * self.blocks, 6))

    def logits(self, parameters: Parameters, data: Array) -> Array:
        cut = patches(self.pictures(data), 2, 2)
        x = cut.reshape(len(data), -1, 4) @ parameters[0] + parameters[1]
        for i in range(2, len(parameters) - 2, 12):
            between, within = parameters[i : i + 6], parameters[i + 6 : i + 12]
            turned = jnp.swapaxes(normalized(x, *between[:2]), 1, 2)
            x = x + jnp.swapaxes(self._perceptron(between[2:], turned), 1, 2)
            x = x + self._perceptron(within[2:], normalized(x, *within[:2]))
        return x.mean(axis=1) @ parameters[-2] + parameters[-1]

    @staticmethod
    def _perceptron(parameters: Parameters, x: Array) -> Array:
        up, up_bias, down, down_bias = parameters
        return jax.nn.gelu(x @ up + up_bias) @ down + down_bias


@register
@dataclasses.dataclass(frozen=True, repr=False)
class SeparableConvNet(_PictureNetwork):
    """A convolution of 2 x 2 and stride 2; blocks of a convolution of 3 x 3 of each channel by
    itself, a product over channels and relu, added to their input; the mean is read out."""

    blocks: int = 2

    def check_structure(self) -> None:
        super().check_structure()
        self.require_count("blocks")

    @property
    def shapes(self) -> Shapes:
        w = self.width
        block = (3, 3, w, 1), (w, w), (w,)
        return (2, 2, 1, w), (w,), *(block * self.blocks), (w, self.classes), (self.classes,)

    def logits(self, parameters: Parameters, data: Array) -> Array:
        w = self.width
        x = patches(self.pictures(data), 2, 2) @ parameters[0].reshape(4, w) + parameters[1]
        for i in range(2, len(parameters) - 2, 3):
            bank, across, bias = parameters[i : i + 3]
            alone = sum(
                piece * weight for piece, weight in zip(pieces(x, 3, 1), bank.reshape(9, w)))
            x = x + jax.nn.relu(alone @ across + bias)
        return x.mean(axis=(1, 2)) @ parameters[-2] + parameters[-1]


@register
@dataclasses.dataclass(frozen=True, repr=False)
class LSTMLanguageModel(LanguageModel):
    """A long short-term memory reads the symbols; its state is read out by an affine layer."""

    data: Dataset = dataclasses.field(default=HeldOutText(), kw_only=True)

    @property
    def shapes(self) -> Shapes:
        c, w = self.classes, self.width
        return (c, w), (w, 4 * w), (w, 4 * w), (4 * w,), (w, c), (c,)

    def logits(self, parameters: Parameters, symbols: Array) -> Array:
        embedding, inward, recurrent, bias, readout, readout_bias = parameters
        inputs = jnp.swapaxes(embedding[symbols] @ inward + bias, 0, 1)

        def step(carry, x):
            state, cell = carry
            into, keep, new, out = jnp.split(x + state @ recurrent, 4, axis=-1)
            cell = jax.nn.sigmoid(keep) * cell + jax.nn.sigmoid(into) * jnp.tanh(new)
            state = jax.nn.sigmoid(out) * jnp.tanh(cell)
            return (state, cell), state

        start = jnp.zeros((len(symbols), self.width))
        _, states = jax.lax.scan(step, (start, start), inputs)
        return jnp.swapaxes(states, 0, 1) @ readout + readout_bias


@register
@dataclasses.dataclass(frozen=True, repr=False)
class WindowLanguageModel(Network):
    """The next symbol from the embeddings of the last ones, side by side, through a layer of tanh.

    Source: Bengio et al. 2003, "A neural probabilistic language model".

    Args:
      classes: size of the alphabet.
      features: symbols read.
      embedding: units of a symbol.
      width: units of the hidden layer.
    """

    classes: int
    features: int
    embedding: int
    width: int
    data: Dataset = dataclasses.field(default=HeldOutText(), kw_only=True)
    init: str = dataclasses.field(default="glorot", kw_only=True)

    def check_structure(self) -> None:
        self.require_count("embedding")
        self.require_count("width")

    @property
    def data_sizes(self) -> tuple[int, int]:
        return self.features, self.classes

    @property
    def shapes(self) -> Shapes:
        c, w = self.classes, self.width
        return (c, self.embedding), (self.features * self.embedding, w), (w,), (w, c), (c,)

    def loss(
        self, parameters: Parameters, data: Array, labels: Array, instance: Instance
    ) -> Array:
        seen = parameters[0][data[:, :-1]].reshape(len(data), -1)
        return cross_entropy(affine_layers(parameters[1:], seen, jnp.tanh), data[:, -1])


@register
@dataclasses.dataclass(frozen=True, repr=False)
class TiedAutoencoder(Network):
    """f = mean of (x - act(x W + b) W^T - c)^2 over samples and features."""

    features: int
    width: int
    activation: str = "tanh"
    classes: int = 6
    data: Dataset = dataclasses.field(default=HeldOutPictures(), kw_only=True)
    init: str = dataclasses.field(default="glorot", kw_only=True)

    def check_structure(self) -> None:
        self.require_count("width")

    @property
    def data_sizes(self) -> tuple[int, int]:
        return self.features, self.classes

    @property
    def shapes(self) -> Shapes:
        return (self.features, self.width), (self.width,), (self.features,)

    def loss(
        self, parameters: Parameters, data: Array, labels: Array, instance: Instance
    ) -> Array:
        weights, bias, shift = parameters
        code = ACTIVATIONS[self.activation](data @ weights + bias)
        return jnp.mean((data - code @ weights.T - shift) ** 2)


def small_real_valid() -> list[Problem]:
    """Ten tasks of 1,000 to 10,000 parameters, of which a network can learn few by heart."""
    greek, noise = HeldOutPictures(photographs=0.0), {"noise": 0.2}
    noisy_greek = HeldOutPictures(photographs=0.0, **noise)
    noisy_table = HeldOutTables(**noise)
    many = {"samples": 4096, "objective_samples": 2048}
    return [
        FullyConnected(
            64, 10, (20,) * 6, "tanh", data=noisy_greek, init="glorot", batch_size=64, l2=0.0,
            **many),
        ResidualPerceptron(64, 6, 32, data=HeldOutPictures(**noise), batch_size=32, **many),
        GatedPerceptron(9, 3, 24, data=noisy_table, batch_size=64, samples=1024),
        Mixture(9, 3, 24, data=noisy_table, batch_size=16, samples=1024),
        ElmanReader(12, 10, 32, data=noisy_greek, batch_size=32, samples=2048),
        Mixer(8, 6, 16, data=HeldOutPictures(**noise), batch_size=64, **many),
        SeparableConvNet(8, 10, 24, data=greek, batch_size=32, samples=1024, init="he"),
        LSTMLanguageModel(32, 12, 20, batch_size=32, **many),
        WindowLanguageModel(32, 6, 12, 48, batch_size=128, **many),
        TiedAutoencoder(64, 24, batch_size=64, samples=1024),
    ]
