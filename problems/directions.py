"""Quadratics that minibatches see through a few directions or centers at a time.

Both are of the released program and off by default there.
"""

import dataclasses

import jax
import jax.numpy as jnp

from problems.datasets import Dataset, SymmetricGaussian
from problems.minibatch import DataProblem
from problems.problem import Array, Instance, Parameters
from problems.registry import register


@dataclasses.dataclass(frozen=True, repr=False)
class _Directions(DataProblem):
    """x of shape (1, n), start N(0, 1), data (samples, n) symmetric about 0."""

    n: int
    data: Dataset = dataclasses.field(default=SymmetricGaussian(), kw_only=True)

    def check(self) -> None:
        super().check()
        self.require_count("n")
        self.require(self.samples % 2 == 0, "samples", "even, the data being symmetric")

    @property
    def data_sizes(self) -> tuple[int, int]:
        return self.n, 2

    def initial_parameters(self, key: Array, instance: Instance) -> Parameters:
        return (jax.random.normal(key, (1, self.n)),)


@register
@dataclasses.dataclass(frozen=True, repr=False)
class ProjectionQuadratic(_Directions):
    """f(x) = sum_d ||x * d||^2, the product taken entry by entry; minimum 0 at 0.

    Source: released program `ProjectionQuadratic`.
    """

    def loss(
        self, parameters: Parameters, data: Array, labels: Array, instance: Instance
    ) -> Array:
        return jnp.sum((parameters[0] * data) ** 2)


@register
@dataclasses.dataclass(frozen=True, repr=False)
class SumOfQuadratics(_Directions):
    """f(x) = sum_d ||x - d||^2 - sum_d ||d||^2 + 1e-12; minimum 1e-12 at 0 on symmetric data.

    Evaluated as samples * ||x||^2 - 2 x . sum_d d + 1e-12. The sum pairs the first half of the
    data with the second, which for symmetric data is exactly 0: so the full objective cannot
    round below 0. A minibatch's can be negative, and is nowhere logged.

    Source: released program `SumOfQuadratics`.
    """

    def objective(self, parameters: Parameters, instance: Instance) -> Array:
        first, second = jnp.split(instance["data"], 2)
        return self._value(parameters[0], jnp.sum(first + second, axis=0), self.samples)

    def loss(
        self, parameters: Parameters, data: Array, labels: Array, instance: Instance
    ) -> Array:
        return self._value(parameters[0], jnp.sum(data, axis=0), len(data))

    @staticmethod
    def _value(x: Array, total: Array, count: int) -> Array:
        return count * jnp.sum(x**2) - 2 * jnp.sum(x * total) + 1e-12
