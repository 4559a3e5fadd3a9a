"""The classical functions of two variables (paper, appendix; released program `Problem2D`).

The parameters are one tensor of shape (2,), (x, y).
"""

import abc
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from problems.problem import Array, BasicProblem, Instance, Parameters
from problems.registry import register


@dataclasses.dataclass(frozen=True, repr=False)
class Function2D(BasicProblem):
    """f(x, y), started uniformly in the box `low` .. `high`."""

    low = (0.0, 0.0)
    high = (0.0, 0.0)

    @abc.abstractmethod
    def value(self, x: Array, y: Array) -> Array:
        """f at (x, y)."""

    def initial_parameters(self, key: Array, instance: Instance) -> Parameters:
        low, high = jnp.array(self.low), jnp.array(self.high)
        return (jax.random.uniform(key, (2,), minval=low, maxval=high),)

    def objective(self, parameters: Parameters, instance: Instance) -> Array:
        x, y = parameters[0]
        return self.value(x, y)


@dataclasses.dataclass(frozen=True, repr=False)
class NormalStart(Function2D):
    """f(x, y), started from N(0, 1)^2."""

    def initial_parameters(self, key: Array, instance: Instance) -> Parameters:
        return (jax.random.normal(key, (2,)),)


@register
@dataclasses.dataclass(frozen=True, repr=False)
class Rosenbrock(Function2D):
    """f = (1 - x)^2 + 100 (y - x^2)^2, started in U(-5, 10)^2; minimum 0 at (1, 1)."""

    low, high = (-5.0, -5.0), (10.0, 10.0)

    def value(self, x: Array, y: Array) -> Array:
        return (1 - x) ** 2 + 100 * (y - x**2) ** 2


@register
@dataclasses.dataclass(frozen=True, repr=False)
class Ackley(Function2D):
    """f = 20 + e - 20 exp(-r / 5) - exp((cos 2 pi x + cos 2 pi y) / 2), r^2 = (x^2 + y^2) / 2.

    Started in U(-32.768, 32.768)^2; minimum 0 at the origin, a cone's tip. There r is taken as
    sqrt(r^2 + 1e-12) - 1e-6, whose derivatives are finite, and both differences as expm1, which
    cannot turn negative.
    """

    low, high = (-32.768, -32.768), (32.768, 32.768)

    def value(self, x: Array, y: Array) -> Array:
        r = jnp.sqrt(0.5 * (x**2 + y**2) + 1e-12) - 1e-6
        waves = 0.5 * (jnp.cos(2 * np.pi * x) + jnp.cos(2 * np.pi * y))
        return -20 * jnp.expm1(-0.2 * r) - np.e * jnp.expm1(waves - 1)


@register
@dataclasses.dataclass(frozen=True, repr=False)
class Beale(Function2D):
    """f = sum_i (c_i - x + x y^i)^2, c = 1.5, 2.25, 2.625, started in U(-4.5, 4.5)^2; minimum 0."""

    low, high = (-4.5, -4.5), (4.5, 4.5)

    def value(self, x: Array, y: Array) -> Array:
        terms = ((1.5, 1), (2.25, 2), (2.625, 3))
        return sum((c - x + x * y**i) ** 2 for c, i in terms)


@register
@dataclasses.dataclass(frozen=True, repr=False)
class Booth(Function2D):
    """f = (x + 2 y - 7)^2 + (2 x + y - 5)^2, started in U(-10, 10)^2; minimum 0 at (1, 3)."""

    low, high = (-10.0, -10.0), (10.0, 10.0)

    def value(self, x: Array, y: Array) -> Array:
        return (x + 2 * y - 7) ** 2 + (2 * x + y - 5) ** 2


@register
@dataclasses.dataclass(frozen=True, repr=False)
class Branin(Function2D):
    """f = (y - 5.1 x^2 / (4 pi^2) + 5 x / pi - 6)^2 + 10 (1 - 1 / (8 pi)) cos x + 10.

    Started with x in U(-5, 10), y in U(0, 15); three minima of 0.398.
    """

    low, high = (-5.0, 0.0), (10.0, 15.0)

    def value(self, x: Array, y: Array) -> Array:
        valley = y - 5.1 / (4 * np.pi**2) * x**2 + 5 / np.pi * x - 6
        return valley**2 + 10 * (1 - 1 / (8 * np.pi)) * jnp.cos(x) + 10


@register
@dataclasses.dataclass(frozen=True, repr=False)
class LogSumExp(NormalStart):
    """f = log(e^(x + 3y - .1) + e^(x - 3y - .1) + e^(-x - .1) + 1), started N(0, 1)^2.

    Positive by the 1; evaluated with the largest exponent taken out, so it cannot overflow.
    """

    def value(self, x: Array, y: Array) -> Array:
        exponents = (x + 3 * y - 0.1, x - 3 * y - 0.1, -x - 0.1, jnp.zeros_like(x))
        return jax.nn.logsumexp(jnp.stack(exponents), axis=0)


@register
@dataclasses.dataclass(frozen=True, repr=False)
class Matyas(Function2D):
    """f = 0.26 (x^2 + y^2) - 0.48 x y, started in U(-10, 10)^2; minimum 0 at the origin.

    Evaluated as 0.25 (x - y)^2 + 0.01 (x + y)^2: a sum of squares cannot round below 0.
    """

    low, high = (-10.0, -10.0), (10.0, 10.0)

    def value(self, x: Array, y: Array) -> Array:
        return 0.25 * (x - y) ** 2 + 0.01 * (x + y) ** 2


@register
@dataclasses.dataclass(frozen=True, repr=False)
class Michalewicz(Function2D):
    """f = 2 - sin(x) sin(x^2 / pi)^10 - sin(y) sin(2 y^2 / pi)^10, started in U(0, pi)^2.

    No product exceeds 1, so f is at least 0. Over most of the box the gradient is nearly 0.
    """

    low, high = (0.0, 0.0), (np.pi, np.pi)

    def value(self, x: Array, y: Array) -> Array:
        ridges = jnp.sin(x) * jnp.sin(x**2 / np.pi) ** 10
        return 2 - ridges - jnp.sin(y) * jnp.sin(2 * y**2 / np.pi) ** 10


@register
@dataclasses.dataclass(frozen=True, repr=False)
class StyblinskiTang(Function2D):
    """f = 1/2 sum_i (x_i^4 - 16 x_i^2 + 5 x_i) + 80, started in U(-5, 5)^2; minimum 1.67."""

    low, high = (-5.0, -5.0), (5.0, 5.0)

    def value(self, x: Array, y: Array) -> Array:
        return 0.5 * sum(z**4 - 16 * z**2 + 5 * z for z in (x, y)) + 80


@register
@dataclasses.dataclass(frozen=True, repr=False)
class Saddle(NormalStart):
    """f = x^2 - y^2, started N(0, 1)^2. Unbounded below: for pictures, in no training suite."""

    def value(self, x: Array, y: Array) -> Array:
        return x**2 - y**2
