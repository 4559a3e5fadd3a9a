"""Softmax regression on summed embeddings, with sparse gradients (off by default)."""

import dataclasses

import jax
import jax.numpy as jnp

from problems.datasets import Dataset, NoisyParity
from problems.networks import Classifier, Shapes
from problems.problem import Array, Parameters
from problems.registry import register


@dataclasses.dataclass(frozen=True, repr=False)
class _EmbeddingRegression(Classifier):
    """e(ids) W + b, e the sum of the embeddings of a sample's ids, loss of `Classifier`.

    Embeddings (classes, features), W (features, classes), b (classes,); the ids, `features` for
    each sample, are the labels' classes.
    """

    features: int
    classes: int = 2
    data: Dataset = dataclasses.field(default=NoisyParity(), kw_only=True)

    @property
    def data_sizes(self) -> tuple[int, int]:
        return self.features, self.classes

    @property
    def shapes(self) -> Shapes:
        f, c = self.features, self.classes
        return (c, f), (f, c), (c,)


@register
@dataclasses.dataclass(frozen=True, repr=False)
class SparseSoftmaxRegression(_EmbeddingRegression):
    """`e` as a lookup, whose gradient is a scatter.

    Source: released program `SparseSoftmaxRegression`.
    """

    def logits(self, parameters: Parameters, data: Array) -> Array:
        table, weights, bias = parameters
        return jnp.sum(table[data.astype(jnp.int32)], axis=1) @ weights + bias


@register
@dataclasses.dataclass(frozen=True, repr=False)
class OneHotSparseSoftmaxRegression(_EmbeddingRegression):
    """`e` as a product of one-hot ids with the table: the same function by dense operations.

    Source: released program `OneHotSparseSoftmaxRegression`.
    """

    def logits(self, parameters: Parameters, data: Array) -> Array:
        table, weights, bias = parameters
        counts = jax.nn.one_hot(data.astype(jnp.int32), self.classes).sum(axis=1)
        return counts @ table @ weights + bias
