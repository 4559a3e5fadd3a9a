"""Tiny networks that read sequences: language models, and a classifier of pictures by rows."""

import dataclasses

import jax
import jax.numpy as jnp

from problems.datasets import Dataset, MarkovText
from problems.networks import Classifier, Network, Shapes, cross_entropy
from problems.problem import Array, Instance, Parameters, number
from problems.real_data import Pictures
from problems.registry import register


def gated_states(inputs: Array, recurrent: Array) -> Array:
    """The states (time, samples, width) of a gated recurrent unit that starts at 0.

    r, z = sigmoid(i + h U), c = tanh(i_c + r * (h U_c)), h' = z h + (1 - z) c, with the inputs'
    part i (samples, time, 3 width) given.
    """

    def step(state, x):
        xr, xz, xc = jnp.split(x, 3, axis=-1)
        hr, hz, hc = jnp.split(state @ recurrent, 3, axis=-1)
        keep = jax.nn.sigmoid(xz + hz)
        candidate = jnp.tanh(xc + jax.nn.sigmoid(xr + hr) * hc)
        state = keep * state + (1 - keep) * candidate
        return state, state

    start = jnp.zeros((len(inputs), len(recurrent)))
    return jax.lax.scan(step, start, jnp.swapaxes(inputs, 0, 1))[1]


@dataclasses.dataclass(frozen=True, repr=False)
class LanguageModel(Network):
    """Mean cross entropy of the next symbol, over all places of a sequence.

    Args:
      classes: size of the alphabet.
      features: symbols read in a sequence.
      width: units of the embedding and of the hidden state.
    """

    classes: int
    features: int
    width: int
    data: Dataset = dataclasses.field(default=MarkovText(), kw_only=True)
    samples: int = dataclasses.field(default=256, kw_only=True)
    init: str = dataclasses.field(default="glorot", kw_only=True)

    def check_structure(self) -> None:
        self.require_count("width")

    @property
    def data_sizes(self) -> tuple[int, int]:
        return self.features, self.classes

    def logits(self, parameters: Parameters, symbols: Array) -> Array:
        """Next-symbol logits (samples, features, classes) after each of the symbols read."""
        raise NotImplementedError

    def loss(
        self, parameters: Parameters, data: Array, labels: Array, instance: Instance
    ) -> Array:
        return cross_entropy(self.logits(parameters, data[:, :-1]), data[:, 1:])


@register
@dataclasses.dataclass(frozen=True, repr=False)
class RecurrentLanguageModel(LanguageModel):
    """A gated recurrent unit reads the symbols; its state is read out by an affine layer.

    r, z = sigmoid(e W + h U + b), c = tanh(e W_c + r * (h U_c) + b_c), h' = z h + (1 - z) c.
    Tensors: embedding, W of all three (width, 3 width), U (width, 3 width), b, read-out, its bias.
    """

    @property
    def shapes(self) -> Shapes:
        c, w = self.classes, self.width
        return (c, w), (w, 3 * w), (w, 3 * w), (3 * w,), (w, c), (c,)

    def logits(self, parameters: Parameters, symbols: Array) -> Array:
        embedding, inward, recurrent, bias, readout, readout_bias = parameters
        states = gated_states(embedding[symbols] @ inward + bias, recurrent)
        return jnp.swapaxes(states, 0, 1) @ readout + readout_bias


@register
@dataclasses.dataclass(frozen=True, repr=False)
class AttentionLanguageModel(LanguageModel):
    """One causal self-attention layer and a ReLU perceptron, each added to its input.

    Tensors: embedding, positions, queries/keys/values (width, 3 width), output (width, width),
    perceptron (width, 2 width), (2 width,), (2 width, width), (width,), read-out, its bias.
    """

    @property
    def shapes(self) -> Shapes:
        c, t, w = self.classes, self.features, self.width
        attention = (w, 3 * w), (w, w)
        perceptron = (w, 2 * w), (2 * w,), (2 * w, w), (w,)
        return (c, w), (t, w), *attention, *perceptron, (w, c), (c,)

    def logits(self, parameters: Parameters, symbols: Array) -> Array:
        embedding, positions, qkv, output, up, up_bias, down, down_bias, readout, bias = parameters
        x = embedding[symbols] + positions
        query, key, value = jnp.split(x @ qkv, 3, axis=-1)
        scores = query @ jnp.swapaxes(key, 1, 2) / self.width**0.5
        visible = jnp.tril(jnp.ones((self.features, self.features), bool))
        # A finite score for what is hidden: -inf would turn second derivatives into NaN.
        weights = jax.nn.softmax(jnp.where(visible, scores, -1e9), axis=-1)
        x = x + weights @ value @ output
        x = x + jax.nn.relu(x @ up + up_bias) @ down + down_bias
        return x @ readout + bias


@register
@dataclasses.dataclass(frozen=True, repr=False)
class RowReader(Classifier):
    """A gated recurrent unit reads a picture row by row; its last state is read out.

    Tensors: W (side, 3 width), U (width, 3 width), b, read-out, its bias.

    Args:
      side: the pictures are side x side, in grey.
      classes: number of classes.
      width: units of the state.
    """

    side: int
    classes: int
    width: int
    data: Dataset = dataclasses.field(default=Pictures(), kw_only=True)
    init: str = dataclasses.field(default="glorot", kw_only=True)
    l2: float = number(0.0, kw_only=True)

    first_logit_only = False

    def check_structure(self) -> None:
        self.require_count("side")
        self.require_count("width")

    @property
    def data_sizes(self) -> tuple[int, int]:
        return self.side**2, self.classes

    @property
    def shapes(self) -> Shapes:
        w = self.width
        return (self.side, 3 * w), (w, 3 * w), (3 * w,), (w, self.classes), (self.classes,)

    def logits(self, parameters: Parameters, data: Array) -> Array:
        inward, recurrent, bias, readout, readout_bias = parameters
        rows = data.reshape(-1, self.side, self.side)
        return gated_states(rows @ inward + bias, recurrent)[-1] @ readout + readout_bias
