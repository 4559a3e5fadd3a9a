"""Problems whose parameters must move in order, or most of whose gradients are 0.

All are of the released program; they are off by default there.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from problems.datasets import BinaryVectors, Dataset
from problems.minibatch import DataProblem
from problems.problem import Array, BasicProblem, Instance, Parameters
from problems.registry import register


@register
@dataclasses.dataclass(frozen=True, repr=False)
class DependencyChain(BasicProblem):
    """f(x) = sum_{i=1..n} [x_0^2 + x_i^2 / (x_{i-1}^2 + 1e-6)], x of shape (n + 1,), start N(0, 1).

    No parameter can come to rest at 0 before its predecessor did. The 1e-6 keeps the quotients'
    derivatives finite, if large.

    Source: released program `DependencyChain`, which counts x_0^2 once for each of the n terms.
    """

    n: int

    def check(self) -> None:
        super().check()
        self.require_count("n")

    def initial_parameters(self, key: Array, instance: Instance) -> Parameters:
        return (jax.random.normal(key, (self.n + 1,)),)

    def objective(self, parameters: Parameters, instance: Instance) -> Array:
        squares = parameters[0] ** 2
        return jnp.sum(squares[0] + squares[1:] / (squares[:-1] + 1e-6))


@register
@dataclasses.dataclass(frozen=True, repr=False)
class MinMaxWell(BasicProblem):
    """f(x) = max_i x_i^2 + 1 / min_i x_i^2 - 2 + 1e-12, x of shape (n,), start N(0, 1).

    All gradients but two are 0. With m = max(min x^2, 1e-12), which keeps 1/m and its derivatives
    finite at 0 and is exact elsewhere, it is evaluated as (max - m) + (m - 1)^2 / m + 1e-12,
    equal and free of the cancellation that would turn it negative near its minimum.

    Source: released program `MinMaxWell`.
    """

    n: int

    def check(self) -> None:
        super().check()
        self.require_count("n")

    def initial_parameters(self, key: Array, instance: Instance) -> Parameters:
        return (jax.random.normal(key, (self.n,)),)

    def objective(self, parameters: Parameters, instance: Instance) -> Array:
        squares = parameters[0] ** 2
        low, high = jnp.min(squares), jnp.max(squares)
        safe = jnp.maximum(low, 1e-12)
        return (high - low) + (safe - 1) ** 2 / safe + 1e-12


@register
@dataclasses.dataclass(frozen=True, repr=False)
class OutwardSnake(DataProblem):
    """f(x) = sum_d [d_0 / (|x| + 1e-6) + sum_{i>0} ((x_i - pi cos x_{i-1}) d_i)^2].

    x (n,), start N(0, 1), d binary vectors (samples, n): a winding path outwards without an end.
    |x| is sqrt(x^2 + 1e-12), which has finite derivatives at 0.

    Source: released program `OutwardSnake`.
    """

    n: int
    data: Dataset = dataclasses.field(default=BinaryVectors(), kw_only=True)

    def check(self) -> None:
        super().check()
        self.require_count("n")

    @property
    def data_sizes(self) -> tuple[int, int]:
        return self.n, 2

    def initial_parameters(self, key: Array, instance: Instance) -> Parameters:
        return (jax.random.normal(key, (self.n,)),)

    def loss(
        self, parameters: Parameters, data: Array, labels: Array, instance: Instance
    ) -> Array:
        x = parameters[0]
        radius = jnp.sqrt(jnp.sum(x**2) + 1e-12)
        path = x[1:] - np.pi * jnp.cos(x[:-1])
        return jnp.sum(data[:, 0]) / (radius + 1e-6) + jnp.sum((path * data[:, 1:]) ** 2)
