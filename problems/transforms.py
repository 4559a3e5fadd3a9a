"""Problems made from other problems. Each hands gradients through the inner problem's own.

So noise, minibatches and sparsity of the inner problem stay in force, chained to the transform.
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from problems.datasets import log_uniform
from problems.problem import (
    Array,
    Batch,
    Instance,
    Parameters,
    Problem,
    number,
    split_like,
)
from problems.registry import register


@dataclasses.dataclass(frozen=True, repr=False)
class Transform(Problem):
    """Base of the transforms of one problem: by itself it changes nothing.

    The instance holds the inner instance under "problem", beside the transform's own numbers.
    """

    problem: Problem

    def check(self) -> None:
        super().check()
        self.require(isinstance(self.problem, Problem), "problem", "a problem")

    def sample_instance(self, key: Array, numbers: dict[str, Any] | None = None) -> Instance:
        numbers = self.numbers if numbers is None else numbers
        inner_key, own_key = jax.random.split(key)
        inner = self.problem.sample_instance(inner_key, numbers["problem"])
        return numbers | {"problem": inner} | self.draw(own_key, numbers)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return self.problem.shapes

    def draw(self, key: Array, numbers: dict[str, Any]) -> Instance:
        """Draws the transform's own random arrays. By default there are none."""
        return {}

    def initial_parameters(self, key: Array, instance: Instance) -> Parameters:
        return self.problem.initial_parameters(key, instance["problem"])

    def objective(self, parameters: Parameters, instance: Instance) -> Array:
        return self.problem.objective(parameters, instance["problem"])

    def batches(self, key: Array, start: Array, num_steps: int, instance: Instance) -> Batch:
        return {"problem": self.problem.batches(key, start, num_steps, instance["problem"])}

    def minibatch_objective(
        self, parameters: Parameters, instance: Instance, batch: Batch
    ) -> Array:
        return self.problem.minibatch_objective(parameters, instance["problem"], batch["problem"])

    def gradient(self, parameters: Parameters, instance: Instance, batch: Batch) -> Parameters:
        return self.problem.gradient(parameters, instance["problem"], batch["problem"])


@dataclasses.dataclass(frozen=True, repr=False)
class _Scaled(Transform):
    """g(x) = f(x / s) and its start s times larger, s a factor for each tensor."""

    @abc.abstractmethod
    def scales(self, instance: Instance) -> tuple[Array, ...]:
        """The factor of each tensor, scalars."""

    def inner(self, parameters: Parameters, instance: Instance) -> Parameters:
        """The inner problem's parameters, x / s."""
        return tuple(
            tensor / scale
            for tensor, scale in zip(parameters, self.scales(instance), strict=True)
        )

    def initial_parameters(self, key: Array, instance: Instance) -> Parameters:
        start = super().initial_parameters(key, instance)
        return tuple(t * s for t, s in zip(start, self.scales(instance), strict=True))

    def objective(self, parameters: Parameters, instance: Instance) -> Array:
        return super().objective(self.inner(parameters, instance), instance)

    def minibatch_objective(
        self, parameters: Parameters, instance: Instance, batch: Batch
    ) -> Array:
        return super().minibatch_objective(self.inner(parameters, instance), instance, batch)

    def gradient(self, parameters: Parameters, instance: Instance, batch: Batch) -> Parameters:
        return self.inner(
            super().gradient(self.inner(parameters, instance), instance, batch), instance
        )


@register
@dataclasses.dataclass(frozen=True, repr=False)
class Rescale(_Scaled):
    """g(x) = f(x / scale), started scale times larger; its gradient is scale times smaller.

    Source: released program `Rescale`.
    """

    scale: float = number()

    def check(self) -> None:
        super().check()
        self.require(self.scale > 0, "scale", "positive")

    def scales(self, instance: Instance) -> tuple[Array, ...]:
        return (instance["scale"],) * len(self.problem.shapes)


@register
@dataclasses.dataclass(frozen=True, repr=False)
class RandomRescale(_Scaled):
    """`Rescale` by factors drawn for each instance.

    Tensor i lives 10^(U(-c, c) + U_i(-t, t)) times larger, c = common_decades (one draw for all
    tensors), t = tensor_decades (one draw for each). The released sets rescale single tensors by
    fixed numbers; drawing them follows Metz et al. 2022, "VeLO", and Moudgil et al. 2025, "Celo".
    """

    common_decades: float = number(1.0)
    tensor_decades: float = number(1.0)

    def check(self) -> None:
        super().check()
        self.require(self.common_decades >= 0, "common_decades", "at least 0")
        self.require(self.tensor_decades >= 0, "tensor_decades", "at least 0")

    def draw(self, key: Array, numbers: dict[str, Any]) -> Instance:
        common_key, tensor_key = jax.random.split(key)
        common = log_uniform(common_key, numbers["common_decades"])
        each = log_uniform(tensor_key, numbers["tensor_decades"], (len(self.problem.shapes),))
        return {"tensor_scales": common * each}

    def scales(self, instance: Instance) -> tuple[Array, ...]:
        return tuple(instance["tensor_scales"][i] for i in range(len(self.problem.shapes)))


@register
@dataclasses.dataclass(frozen=True, repr=False)
class LogObjective(Transform):
    """g(x) = log(f(x) + 1e-6) - log(1e-6), at least 0 with the same minima.

    The 1e-6 bounds the gradient's factor 1 / (f + 1e-6) where f reaches 0.

    Source: released program `LogObjective`.
    """

    def objective(self, parameters: Parameters, instance: Instance) -> Array:
        # log1p of a quotient instead of the difference of logs: exactly 0 at f = 0, never below.
        return jnp.log1p(super().objective(parameters, instance) / 1e-6)

    def minibatch_objective(
        self, parameters: Parameters, instance: Instance, batch: Batch
    ) -> Array:
        return jnp.log1p(super().minibatch_objective(parameters, instance, batch) / 1e-6)

    def gradient(self, parameters: Parameters, instance: Instance, batch: Batch) -> Parameters:
        inner = super().minibatch_objective(parameters, instance, batch)
        return tuple(g / (inner + 1e-6) for g in super().gradient(parameters, instance, batch))


@register
@dataclasses.dataclass(frozen=True, repr=False)
class SparseGradients(Transform):
    """Each gradient entry is replaced by 0 with probability `zero_probability`, each step anew.

    The rest is not scaled up. Source: released program `SparseProblem`.
    """

    zero_probability: float = number(0.99)

    def check(self) -> None:
        super().check()
        self.require(
            0 <= self.zero_probability <= 1, "zero_probability", "a probability from 0 to 1"
        )

    def batches(self, key: Array, start: Array, num_steps: int, instance: Instance) -> Batch:
        inner_key, own_key = jax.random.split(key)
        steps = start + jnp.arange(num_steps)
        keys = jax.vmap(lambda step: jax.random.fold_in(own_key, step))(steps)
        return {"zeros": keys, **super().batches(inner_key, start, num_steps, instance)}

    def gradient(self, parameters: Parameters, instance: Instance, batch: Batch) -> Parameters:
        full = super().gradient(parameters, instance, batch)
        total = sum(g.size for g in full)
        kept = jax.random.uniform(batch["zeros"], (total,)) >= instance["zero_probability"]
        return tuple(
            jnp.where(keep, g, 0.0) for keep, g in zip(split_like(kept, full), full, strict=True)
        )


@register
@dataclasses.dataclass(frozen=True, repr=False)
class SumOf(Problem):
    """The sum of several problems, each with its own tensors, instance and randomness.

    Source: released program `SumTask`.
    """

    problems: tuple[Problem, ...]

    def check(self) -> None:
        super().check()
        self.require(
            isinstance(self.problems, tuple)
            and len(self.problems) > 0
            and all(isinstance(p, Problem) for p in self.problems),
            "problems",
            "a tuple of at least one problem",
        )

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(shape for problem in self.problems for shape in problem.shapes)

    def _tensors(self, parameters: Parameters) -> list[Parameters]:
        groups, at = [], 0
        for problem in self.problems:
            count = len(problem.shapes)
            groups.append(parameters[at : at + count])
            at += count
        return groups

    def sample_instance(self, key: Array, numbers: dict[str, Any] | None = None) -> Instance:
        numbers = self.numbers if numbers is None else numbers
        parts = zip(
            self.problems, self._keys(key), numbers["problems"], strict=True
        )
        return {"problems": tuple(p.sample_instance(k, n) for p, k, n in parts)}

    def _keys(self, key: Array) -> Array:
        return jax.random.split(key, len(self.problems))

    def initial_parameters(self, key: Array, instance: Instance) -> Parameters:
        parts = zip(self.problems, self._keys(key), instance["problems"], strict=True)
        return tuple(tensor for p, k, i in parts for tensor in p.initial_parameters(k, i))

    def objective(self, parameters: Parameters, instance: Instance) -> Array:
        parts = zip(self.problems, self._tensors(parameters), instance["problems"], strict=True)
        return sum(p.objective(x, i) for p, x, i in parts)

    def batches(self, key: Array, start: Array, num_steps: int, instance: Instance) -> Batch:
        parts = zip(self.problems, self._keys(key), instance["problems"], strict=True)
        return {"problems": tuple(p.batches(k, start, num_steps, i) for p, k, i in parts)}

    def _parts(self, parameters: Parameters, instance: Instance, batch: Batch):
        return zip(
            self.problems,
            self._tensors(parameters),
            instance["problems"],
            batch["problems"],
            strict=True,
        )

    def minibatch_objective(
        self, parameters: Parameters, instance: Instance, batch: Batch
    ) -> Array:
        parts = self._parts(parameters, instance, batch)
        return sum(p.minibatch_objective(x, i, b) for p, x, i, b in parts)

    def gradient(self, parameters: Parameters, instance: Instance, batch: Batch) -> Parameters:
        parts = self._parts(parameters, instance, batch)
        return tuple(g for p, x, i, b in parts for g in p.gradient(x, i, b))
