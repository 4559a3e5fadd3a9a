"""Perceptrons beside the paper's: with layer normalisation, with skips, and for regression."""

import dataclasses

import jax
import jax.numpy as jnp

from problems.datasets import Dataset
from problems.networks import (
    ACTIVATIONS,
    Classifier,
    Network,
    Shapes,
    affine_layers,
    affine_shapes,
)
from problems.problem import Array, Instance, Parameters, number
from problems.real_data import Pictures, TableValues
from problems.registry import register


def normalized(x: Array, gain: Array, shift: Array) -> Array:
    """Mean 0 and variance 1 over the last axis, then times gain plus shift."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = jnp.mean(centred**2, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + 1e-5) * gain + shift


class WithGains:
    """To be put before `Network`: some tensors start at 1, the gains of normalisations."""

    @property
    def gains(self) -> tuple[int, ...]:
        """Which tensors these are."""
        raise NotImplementedError

    def initial_parameters(self, key: Array, instance: Instance) -> Parameters:
        start = super().initial_parameters(key, instance)
        gains = self.gains
        return tuple(jnp.ones_like(t) if i in gains else t for i, t in enumerate(start))


@register
@dataclasses.dataclass(frozen=True, repr=False)
class NormalizedPerceptron(WithGains, Classifier):
    """W x, layer normalisation, activation for each hidden layer; then one affine layer."""

    features: int
    classes: int
    hidden: tuple[int, ...]
    activation: str = "gelu"
    data: Dataset = dataclasses.field(default=Pictures(), kw_only=True)
    init: str = dataclasses.field(default="he", kw_only=True)
    l2: float = number(0.0, kw_only=True)

    first_logit_only = False

    def check_structure(self) -> None:
        self.require_sizes("hidden")

    @property
    def data_sizes(self) -> tuple[int, int]:
        return self.features, self.classes

    @property
    def shapes(self) -> Shapes:
        shapes: list[tuple[int, ...]] = []
        width = self.features
        for size in self.hidden:
            shapes += [(width, size), (size,), (size,)]
            width = size
        return (*shapes, (width, self.classes), (self.classes,))

    @property
    def gains(self) -> tuple[int, ...]:
        return tuple(range(1, 3 * len(self.hidden), 3))

    def logits(self, parameters: Parameters, data: Array) -> Array:
        *layers, readout, bias = parameters
        hidden = data
        for weight, gain, shift in zip(layers[::3], layers[1::3], layers[2::3], strict=True):
            hidden = ACTIVATIONS[self.activation](normalized(hidden @ weight, gain, shift))
        return hidden @ readout + bias


@register
@dataclasses.dataclass(frozen=True, repr=False)
class Regressor(Network):
    """f = mean over samples of (y - MLP(x))^2, features -> hidden[0] -> ... -> 1."""

    features: int
    hidden: tuple[int, ...]
    activation: str = "tanh"
    data: Dataset = dataclasses.field(default=TableValues(), kw_only=True)
    init: str = dataclasses.field(default="glorot", kw_only=True)

    def check_structure(self) -> None:
        self.require_sizes("hidden")

    @property
    def data_sizes(self) -> tuple[int, int]:
        return self.features, 1

    @property
    def shapes(self) -> Shapes:
        return affine_shapes((self.features, *self.hidden, 1))

    def loss(
        self, parameters: Parameters, data: Array, labels: Array, instance: Instance
    ) -> Array:
        values = affine_layers(parameters, data, ACTIVATIONS[self.activation])[:, 0]
        return jnp.mean((labels - values) ** 2)
