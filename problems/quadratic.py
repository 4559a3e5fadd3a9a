"""Quadratics, norms and bowls (paper, appendix; released program, `problem_generator`)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from problems.problem import Array, BasicProblem, Instance, Parameters, number
from problems.registry import register


@dataclasses.dataclass(frozen=True, repr=False)
class _RandomLinear(BasicProblem):
    """A function of the residual W x - y, with W (n, n), y (n, 1) and the start x all N(0, 1)."""

    n: int

    def check(self) -> None:
        super().check()
        self.require_count("n")

    def draw(self, key: Array, numbers: dict[str, Any]) -> Instance:
        w_key, y_key = jax.random.split(key)
        return {
            "w": jax.random.normal(w_key, (self.n, self.n)),
            "y": jax.random.normal(y_key, (self.n, 1)),
        }

    def initial_parameters(self, key: Array, instance: Instance) -> Parameters:
        return (jax.random.normal(key, (self.n, 1)),)

    def residual(self, parameters: Parameters, instance: Instance) -> Array:
        return instance["w"] @ parameters[0] - instance["y"]


@register
@dataclasses.dataclass(frozen=True, repr=False)
class Quadratic(_RandomLinear):
    """f(x) = 1/2 ||W x - y||^2, x of shape (n, 1).

    Source: the paper's appendix; released program `Quadratic`.
    """

    def objective(self, parameters: Parameters, instance: Instance) -> Array:
        return 0.5 * jnp.sum(self.residual(parameters, instance) ** 2)


@register
@dataclasses.dataclass(frozen=True, repr=False)
class Norm(_RandomLinear):
    """f(x) = (sum_i (|W x - y|_i + 1e-6)^p)^(1/p), x of shape (n, 1).

    The 1e-6 keeps the base of every power, and so all derivatives, away from 0. Below p = 1 the
    gradient explodes at small residuals, so p is at least 1.

    Source: released program `Norm`.
    """

    p: float = number(2.0)

    def check(self) -> None:
        super().check()
        self.require(self.p >= 1, "p", "at least 1")

    def objective(self, parameters: Parameters, instance: Instance) -> Array:
        size = jnp.abs(self.residual(parameters, instance)) + 1e-6
        return jnp.sum(size ** instance["p"]) ** (1 / instance["p"])


@register
@dataclasses.dataclass(frozen=True, repr=False)
class Bowl(BasicProblem):
    """f(x) = 1/2 ||sqrt(diag(c, 1)) R(angle) x||^2, x of shape (2, 1), start N(0, 1).

    R is the rotation by `angle` radians, `condition` is c.

    Source: released program `Bowl`.
    """

    condition: float = number()
    angle: float = number(0.0)

    def check(self) -> None:
        super().check()
        self.require(self.condition > 0, "condition", "positive")

    def initial_parameters(self, key: Array, instance: Instance) -> Parameters:
        return (jax.random.normal(key, (2, 1)),)

    def objective(self, parameters: Parameters, instance: Instance) -> Array:
        x, y = parameters[0][:, 0]
        cos, sin = jnp.cos(instance["angle"]), jnp.sin(instance["angle"])
        return 0.5 * (instance["condition"] * (cos * x - sin * y) ** 2 + (sin * x + cos * y) ** 2)


@register
@dataclasses.dataclass(frozen=True, repr=False)
class PowerLawQuadratic(BasicProblem):
    """f(x) = 1/2 sum_i i^-a z_i^2, z = H_3 H_2 H_1 (x - m), x of shape (n, 1), start and m N(0, 1).

    Each H = I - 2 v v^T / ||v||^2 is a reflection with a random v, so that the spectrum's
    directions are not the coordinates at a cost of O(n). The exponent a ~ U(0, max_exponent) is
    drawn for each instance. No member of the paper's sets.
    """

    n: int
    max_exponent: float = number(2.0)

    def check(self) -> None:
        super().check()
        self.require_count("n")
        self.require(self.max_exponent >= 0, "max_exponent", "at least 0")

    def draw(self, key: Array, numbers: dict[str, Any]) -> Instance:
        center_key, mirror_key, exponent_key = jax.random.split(key, 3)
        mirrors = jax.random.normal(mirror_key, (3, self.n))
        exponent = numbers["max_exponent"] * jax.random.uniform(exponent_key)
        return {
            "center": jax.random.normal(center_key, (self.n, 1)),
            "mirrors": mirrors / jnp.linalg.norm(mirrors, axis=1, keepdims=True),
            "spectrum": (1.0 + jnp.arange(self.n)) ** -exponent,
        }

    def initial_parameters(self, key: Array, instance: Instance) -> Parameters:
        return (jax.random.normal(key, (self.n, 1)),)

    def objective(self, parameters: Parameters, instance: Instance) -> Array:
        z = (parameters[0] - instance["center"])[:, 0]
        for mirror in instance["mirrors"]:
            z = z - 2 * jnp.dot(mirror, z) * mirror
        return 0.5 * jnp.sum(instance["spectrum"] * z**2)
