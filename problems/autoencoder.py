"""Tiny autoencoders."""

import dataclasses

import jax.numpy as jnp

from problems.datasets import Dataset, Digits
from problems.networks import ACTIVATIONS, Network, Shapes, affine_layers, affine_shapes
from problems.problem import Array, Instance, Parameters
from problems.registry import register


@register
@dataclasses.dataclass(frozen=True, repr=False)
class Autoencoder(Network):
    """f = mean over samples and features of (x - decode(encode(x)))^2.

    One perceptron, features -> hidden[0] -> ... -> features, with an affine last layer. No member
    of the paper's sets.
    """

    features: int
    hidden: tuple[int, ...]
    activation: str = "tanh"
    data: Dataset = dataclasses.field(default=Digits(), kw_only=True)
    init: str = dataclasses.field(default="glorot", kw_only=True)
    # Of samples in an instance; nothing else depends on them.
    classes: int = dataclasses.field(default=2, kw_only=True)

    def check_structure(self) -> None:
        self.require_sizes("hidden")

    @property
    def data_sizes(self) -> tuple[int, int]:
        return self.features, self.classes

    @property
    def shapes(self) -> Shapes:
        return affine_shapes((self.features, *self.hidden, self.features))

    def loss(
        self, parameters: Parameters, data: Array, labels: Array, instance: Instance
    ) -> Array:
        return jnp.mean((data - affine_layers(parameters, data, ACTIVATIONS[self.activation])) ** 2)
