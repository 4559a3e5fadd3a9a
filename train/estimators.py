"""Estimators of the meta-gradient, behind one interface.

An estimator has a state (the runs of G members and what it remembers of them) and gives, for one
truncation, a meta-gradient for each member. All are pure and jit-compiled as they are; the axis of
members comes first in every array, and is what scale-out shards.
"""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from train.config import TrainConfig
from train.tasks import Family, Meta, Tasks


class Estimate(NamedTuple):
    """One estimate.

    Attributes:
        gradients: by name, (G, ...): one meta-gradient for each member.
        losses: (G, M) meta-objective of each run in this truncation.
    """

    gradients: Meta
    losses: jax.Array


def _for_members(meta: Meta, members: int) -> Meta:
    """A copy of the meta-parameters for each member: a product that has the members on both sides
    keeps them in front, where one with the meta-parameters shared would move them about."""
    return {name: jnp.broadcast_to(value, (members, *value.shape)) for name, value in meta.items()}


def perturb(key: jax.Array, meta: Meta, scale: float) -> Meta:
    """Independent N(0, scale^2) for every meta-parameter."""
    keys = jax.random.split(key, len(meta))
    return {
        name: scale * jax.random.normal(k, meta[name].shape) for k, name in zip(keys, sorted(meta))
    }


def _add(meta: Meta, change: Meta, sign: float) -> Meta:
    return {name: value + sign * change[name] for name, value in meta.items()}


class Estimator(abc.ABC):
    """One way to estimate the gradient of the meta-objective of a family.

    Args:
        family: the problems.
        config: of the training run.
    """

    def __init__(self, family: Family, config: TrainConfig) -> None:
        self.family = family
        self.config = config

    def _draw(self, key: jax.Array) -> Tasks:
        keys = jax.random.split(key, self.config.members)
        return jax.vmap(lambda k: self.family.draw(k, first=True))(keys)

    def _renew(self, tasks: Tasks, key: jax.Array) -> Tasks:
        """New runs for those that ended; drawn only if there is one."""
        keys = jax.random.split(key, self.config.members)
        ended = (tasks.step >= tasks.horizon) | tasks.lost
        return jax.lax.cond(
            jnp.any(ended), lambda: jax.vmap(self.family.renew)(tasks, keys), lambda: tasks)

    @abc.abstractmethod
    def init(self, key: jax.Array, meta: Meta) -> Any:
        """The estimator's state before the first truncation."""

    @abc.abstractmethod
    def estimate(
        self, meta: Meta, state: Any, key: jax.Array, length: int
    ) -> tuple[Estimate, Any]:
        """One truncation of N = `length` inner steps (static), and the state after it."""


class TBPTT(Estimator):
    """Truncated backpropagation through time: the exact gradient of one truncation's meta-objective,
    with the runs' states before it held fixed (paper, section 4)."""

    def init(self, key: jax.Array, meta: Meta) -> Tasks:
        return self._draw(key)

    def estimate(self, meta, state, key, length):
        tasks = self._renew(state, key)

        def loss(meta: Meta, tasks: Tasks) -> tuple[jax.Array, Any]:
            losses, tasks = self.family.unroll(meta, tasks, length)
            return jnp.mean(losses), (losses, tasks)

        gradients, (losses, tasks) = jax.vmap(jax.grad(loss, has_aux=True))(
            _for_members(meta, self.config.members), tasks)
        return Estimate(gradients, losses), tasks


class ES(Estimator):
    """Evolution strategies with antithetic perturbations, new ones for each truncation.

    The gradient of E[L(meta + e)], e ~ N(0, s^2), is E[(L(meta + e) - L(meta - e)) e] / (2 s^2).
    Both sides start at the same place; the run goes on from where +e took it. With runs of one
    truncation this is full evolution strategies over whole runs.
    """

    def init(self, key: jax.Array, meta: Meta) -> Tasks:
        return self._draw(key)

    def estimate(self, meta, state, key, length):
        renew_key, perturb_key = jax.random.split(key)
        tasks = self._renew(state, renew_key)
        scale = self.config.perturbation

        def member(tasks: Tasks, key: jax.Array) -> tuple[Meta, jax.Array, Tasks]:
            change = perturb(key, meta, scale)
            up, after = self.family.unroll(_add(meta, change, 1.0), tasks, length)
            down, _ = self.family.unroll(_add(meta, change, -1.0), tasks, length)
            weight = jnp.mean(up - down) / (2 * scale**2)
            return jax.tree.map(lambda e: weight * e, change), (up + down) / 2, after

        gradients, losses, tasks = jax.vmap(member)(
            tasks, jax.random.split(perturb_key, self.config.members))
        return Estimate(gradients, losses), tasks


class PESState(NamedTuple):
    """Both sides of the antithetic pairs.

    Attributes:
        up, down: the runs under the positive and the negative perturbations.
        total: by name, (G, M, ...): for each run the sum of its perturbations so far.
    """

    up: Tasks
    down: Tasks
    total: Meta


class PES(Estimator):
    """Persistent evolution strategies (Vicol et al. 2021): unbiased across truncations.

    A run keeps its perturbed states; each truncation adds a new perturbation to the meta-parameters
    and its loss difference is weighted by the sum of all perturbations that the run has seen.
    """

    def init(self, key: jax.Array, meta: Meta) -> PESState:
        tasks = self._draw(key)
        shape = (self.config.members, self.config.models)
        total = {name: jnp.zeros((*shape, *value.shape)) for name, value in meta.items()}
        # Two buffers, since a training step gives both of them back changed.
        return PESState(tasks, jax.tree.map(jnp.copy, tasks), total)

    def _renew_pair(self, state: PESState, key: jax.Array) -> PESState:
        # Both sides of a run end together, and start from the same draw.
        lost = state.up.lost | state.down.lost
        up, down = (self._renew(side._replace(lost=lost), key) for side in (state.up, state.down))
        fresh = up.step == 0

        def forget(total: jax.Array) -> jax.Array:
            return jnp.where(fresh.reshape(*fresh.shape, *(1,) * (total.ndim - 2)), 0.0, total)

        return PESState(up, down, jax.tree.map(forget, state.total))

    def estimate(self, meta, state, key, length):
        renew_key, perturb_key = jax.random.split(key)
        state = self._renew_pair(state, renew_key)
        scale = self.config.perturbation

        def member(state: PESState, key: jax.Array) -> tuple[Meta, jax.Array, PESState]:
            change = perturb(key, meta, scale)
            total = jax.tree.map(lambda sum_, e: sum_ + e, state.total, change)
            up_losses, up = self.family.unroll(_add(meta, change, 1.0), state.up, length)
            down_losses, down = self.family.unroll(_add(meta, change, -1.0), state.down, length)
            weights = (up_losses - down_losses) / (2 * scale**2 * self.config.models)
            gradient = jax.tree.map(lambda t: jnp.tensordot(weights, t, axes=1), total)
            return gradient, (up_losses + down_losses) / 2, PESState(up, down, total)

        gradients, losses, state = jax.vmap(member)(
            state, jax.random.split(perturb_key, self.config.members))
        return Estimate(gradients, losses), state


class Mix(Estimator):
    """Truncated backpropagation and PES, each entry weighted by the inverse of its variance over
    members (Metz et al. 2019)."""

    def __init__(self, family: Family, config: TrainConfig) -> None:
        super().__init__(family, config)
        self.parts = TBPTT(family, config), PES(family, config)

    def init(self, key: jax.Array, meta: Meta) -> tuple[Any, ...]:
        return tuple(
            part.init(k, meta) for part, k in zip(self.parts, jax.random.split(key)))

    def estimate(self, meta, state, key, length):
        results = [
            part.estimate(meta, s, k, length)
            for part, s, k in zip(self.parts, state, jax.random.split(key))
        ]
        (a, _), (b, _) = results
        gradients = jax.tree.map(inverse_variance_mean, a.gradients, b.gradients)
        losses = (a.losses + b.losses) / 2
        return Estimate(gradients, losses), tuple(after for _, after in results)


def inverse_variance_mean(a: jax.Array, b: jax.Array) -> jax.Array:
    """Entry by entry, the mean of two (G, ...) estimates weighted by the other one's variance."""
    var_a, var_b = (jnp.var(x, axis=0, keepdims=True) for x in (a, b))
    share = jnp.where(var_a + var_b > 0, var_b / (var_a + var_b + 1e-30), 0.5)
    return share * a + (1.0 - share) * b


_ESTIMATORS = {"tbptt": TBPTT, "es": ES, "pes": PES, "mix": Mix}


def make(family: Family, config: TrainConfig) -> Estimator:
    """The estimator that the config names."""
    return _ESTIMATORS[config.estimator](family, config)
