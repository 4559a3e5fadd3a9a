"""Estimators of the meta-gradient, behind one interface.

An estimator has a state (the runs of G members and what it remembers of them) and gives, for one
truncation, a meta-gradient for each member. Before it, `renew` replaces the runs that have ended.
The axis of members comes first in every array, and is what scale-out shards.

A truncation is a number of *segments* of `config.unroll` inner steps. Only segments are compiled,
so truncations of any length share one program.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from train.config import TrainConfig
from train.programs import Program, described, ours, serializable
from train.tasks import Family, Meta, Tasks


@serializable
class Estimate(NamedTuple):
    """One estimate.

    Attributes:
        gradients: by name, (G, ...): one meta-gradient for each member.
        losses: (G, M) meta-objective in this truncation, in the order of the estimator's `runs`.
    """

    gradients: Meta
    losses: jax.Array


def for_members(meta: Meta, members: int) -> Meta:
    """A copy of the meta-parameters for each member: a product that has the members on both sides
    keeps them in front, where one with the meta-parameters shared would move them about."""
    return {name: jnp.broadcast_to(value, (members, *value.shape)) for name, value in meta.items()}


def for_each_member(function: Callable[..., Any], *arguments: Any) -> Any:
    """`jax.vmap` of a function; on a CPU one member after the other, since what is computed of all
    side by side does not fit into a processor's cache."""
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda member: function(*member), arguments)
    return jax.vmap(function)(*arguments)


def perturb(key: jax.Array, meta: Meta, config: TrainConfig) -> Meta:
    """Independent N(0, perturbation^2), in its unit, for every meta-parameter that is trained, 0
    for others."""
    keys = jax.random.split(key, len(meta))
    return {
        name: config.perturbation * config.unit(name) * jax.random.normal(k, meta[name].shape)
        if config.trains(name) else jnp.zeros_like(meta[name])
        for k, name in zip(keys, sorted(meta))
    }


def _add(meta: Meta, change: Meta, sign: float) -> Meta:
    return {name: value + sign * change[name] for name, value in meta.items()}


class Estimator(abc.ABC):
    """One way to estimate the gradient of the meta-objective of a family.

    Args:
        family: the problems.
        config: of the training run.
        sharding: where the members of every array of the state lie; None for one device.

    Attributes:
        persistent: runs go on from one truncation to the next.
    """

    persistent = True

    def __init__(
        self, family: Family, config: TrainConfig, sharding: jax.sharding.Sharding | None = None
    ) -> None:
        self.family = family
        self.config = config
        self.sharding = sharding
        self._key = self._programs_key()
        options = _drawing_options()
        self._draw = self._compiled(self._drawn, compiler_options=options)
        self._begin = self._compiled(self._begun, compiler_options=options)
        self._renew = self._compiled(self._renewed, compiler_options=options)
        self.ended = jax.jit(self._ended)

    def _programs_key(self) -> str | None:
        """What the programs depend on beside this project's sources; None if others wrote a part
        of it, which may change unseen."""
        family = self.family
        if not (ours(self) and ours(family) and ours(family.network) and described(family.specs)):
            return None
        # Programs are the same whatever the seed and the number of meta-steps.
        config = dataclasses.replace(self.config, seed=0, steps=1)
        network = family.network.network_config
        return f"{type(self).__name__} {family.specs} {network} {config.to_json()}"

    def _compiled(self, function: Callable[..., Any], **options: Any) -> Program:
        """A function whose results all have members in front, to be compiled. Where these lie is
        said, since JAX calls the same place by several names, and compiles for each."""
        return Program(function, self._key, out_shardings=self.sharding, **options)

    def _over_members(
        self, function: Callable[..., Any], arguments: int, whole: Sequence[int] = (0,)
    ) -> Callable[..., Any]:
        """The function with each device working on members of its own, without a word to others.

        Args:
            function: of this many arguments; its results have members in front.
            arguments: those not in `whole` have members in front.
            whole: positions of the arguments that every device sees whole.
        """
        if self.sharding is None:
            return function
        members = self.sharding.spec
        specs = tuple(PartitionSpec() if i in whole else members for i in range(arguments))
        return jax.shard_map(
            function, mesh=self.sharding.mesh, in_specs=specs, out_specs=members, check_vma=False)

    def init(self, key: jax.Array, meta: Meta) -> Any:
        """The estimator's state before the first truncation."""
        return self._begin(self._draw(key, True), meta)

    def renew(self, state: Any, key: jax.Array) -> Any:
        """The state with new runs in place of those that have ended."""
        return self._renew(state, self._draw(key, False))

    def _drawn(self, key: jax.Array, first: jax.Array) -> Tasks:
        keys = jax.random.split(key, self.config.members)
        return jax.vmap(self.family.draw, in_axes=(0, None))(keys, first)

    @abc.abstractmethod
    def _begun(self, tasks: Tasks, meta: Meta) -> Any:
        """The state of runs that have just been drawn."""

    @abc.abstractmethod
    def _renewed(self, state: Any, fresh: Tasks) -> Any:
        """The state with fresh runs in place of those that have ended."""

    @abc.abstractmethod
    def _ended(self, state: Any) -> jax.Array:
        """Whether any run of the state has ended."""

    @abc.abstractmethod
    def runs(self, state: Any) -> list[Tasks]:
        """The runs of a state; of an antithetic pair one."""

    @abc.abstractmethod
    def estimate(
        self, meta: Meta, state: Any, key: jax.Array, segments: int
    ) -> tuple[Estimate, Any]:
        """One truncation, and the state after it. The state before it is used up.

        Args:
            meta: meta-parameters by name.
            state: from `init`, `renew` or the truncation before.
            key: of the perturbations.
            segments: how many times `config.unroll` inner steps the truncation has.
        """

    def shapes(self, meta: Meta) -> tuple[Any, Any]:
        """Shapes and types of runs as they are drawn, and of the estimator's state."""
        tasks = self._draw.shapes(jax.random.key(0), True)
        return tasks, self._begin.shapes(tasks, meta)

    def compile(self, meta: Meta) -> None:
        """Compile what training needs, without running it: drawing runs and a truncation."""
        key = jax.random.key(0)
        # What lies elsewhere is another program.
        tasks, state = jax.tree.map(
            lambda shape: shape.update(sharding=self.sharding), self.shapes(meta))
        self._draw.compile(key, True)
        self._begin.compile(tasks, meta)
        self._renew.compile(state, tasks)
        self.ended.lower(state).compile()
        self._compile_truncation(meta, state, key)

    def unload(self) -> None:
        """Let go of the compiled programs. They are compiled again, or read from JAX's compilation
        cache, when they are next needed."""
        for program in vars(self).values():
            if isinstance(program, Program):
                program.unload()
        self.ended.clear_cache()

    @abc.abstractmethod
    def _compile_truncation(self, meta: Meta, state: Any, key: Any) -> None:
        """Compile what `estimate` runs, for a state of these shapes."""


class _OneSided(Estimator):
    """An estimator whose state is one set of runs."""

    def _begun(self, tasks: Tasks, meta: Meta) -> Tasks:
        return tasks

    def _renewed(self, state: Tasks, fresh: Tasks) -> Tasks:
        return jax.vmap(self.family.renew)(state, fresh)

    def _ended(self, state: Tasks) -> jax.Array:
        return jnp.any(self.family.ended(state))

    def runs(self, state: Tasks) -> list[Tasks]:
        return [state]


class TBPTT(_OneSided):
    """Truncated backpropagation through time: the exact gradient of one truncation's
    meta-objective, with the runs' states before it held fixed (paper, section 4).

    A truncation of several segments goes through them forwards, keeping the runs between them, then
    backwards, where each segment is unrolled again and hands the derivatives by its start to the
    one before it.
    """

    def __init__(self, family: Family, config: TrainConfig, sharding: Any = None) -> None:
        super().__init__(family, config, sharding)
        self._forward = self._compiled(self._over_members(self._unrolled, 2))
        self._backward = self._compiled(self._over_members(self._pulled_back, 4, whole=(0, 3)))

    def _unrolled(self, meta: Meta, tasks: Tasks) -> Tasks:
        return for_each_member(
            lambda m, t: self.family.advance(m, t, self.config.unroll),
            for_members(meta, len(tasks.step)), tasks)

    def _pulled_back(
        self, meta: Meta, tasks: Tasks, after: Any, weight: jax.Array
    ) -> tuple[Meta, jax.Array, Tasks, Any]:
        """Through one segment.

        Args:
            meta: meta-parameters by name.
            tasks: (G, M, ...) the runs before the segment.
            after: derivatives by the runs' (place, state) after it.
            weight: of this segment's meta-objective.

        Returns:
            (G, ...) derivatives by the meta-parameters, (G, M) meta-objective, the runs after, and
            the derivatives by their (place, state) before.
        """

        def member(meta: Meta, tasks: Tasks, after: Any) -> tuple[Any, ...]:
            def segment(meta: Meta, place: Any, inner: Any) -> tuple[Any, Any]:
                losses, done = self.family.unroll(
                    meta, tasks._replace(place=place, state=inner), self.config.unroll)
                return (jnp.mean(losses), done.place, done.state), (losses, done)

            _, pull, (losses, done) = jax.vjp(
                segment, meta, tasks.place, tasks.state, has_aux=True)
            gradients, *before = pull((weight, *after))
            return gradients, losses, done, tuple(before)

        return for_each_member(member, for_members(meta, len(tasks.step)), tasks, after)

    def estimate(self, meta, state, key, segments):
        starts = [state]
        for _ in range(segments - 1):
            starts.append(self._forward(meta, starts[-1]))
        weight = jnp.float32(1 / segments)
        after = jax.tree.map(jnp.zeros_like, (state.place, state.state))
        results = []
        for start in reversed(starts):
            gradients, losses, done, after = self._backward(meta, start, after, weight)
            results.append((gradients, losses / segments, done))
        gradients, losses = jax.tree.map(
            lambda *parts: functools.reduce(operator.add, parts),
            *((gradients, losses) for gradients, losses, _ in results))
        return Estimate(gradients, losses), results[0][2]

    def _compile_truncation(self, meta, state, key):
        if self.config.heavy_tailed:
            self._forward.compile(meta, state)
        self._backward.compile(meta, state, (state.place, state.state), jnp.float32(1))


class Full(TBPTT):
    """The exact gradient of whole runs, each from its start to its end.

    All runs of a meta-step are new and have one length, as many segments as the meta-step has.
    """

    persistent = False

    def estimate(self, meta, state, key, segments):
        horizon = jnp.full_like(state.horizon, segments * self.config.unroll)
        return super().estimate(meta, state._replace(horizon=horizon), key, segments)

    def _compile_truncation(self, meta, state, key):
        self._forward.compile(meta, state)
        super()._compile_truncation(meta, state, key)


class _Evolution(Estimator):
    """What the evolution strategies share: compiled truncations of any number of segments, and the
    slope that a difference of losses says: (L(meta + e) - L(meta - e)) e / (2 s^2), with s the
    standard deviation of e."""

    def __init__(self, family: Family, config: TrainConfig, sharding: Any = None) -> None:
        super().__init__(family, config, sharding)
        spread = self._over_members(self._estimate, 4, whole=(0, 3))

        def estimate(meta: Meta, state: Any, key: jax.Array, segments: jax.Array) -> Any:
            return spread(meta, state, jax.random.split(key, config.members), segments)

        self._truncation = self._compiled(estimate, donate_argnums=1)

    def _run(
        self, meta: Meta, tasks: Tasks, segments: jax.Array
    ) -> tuple[jax.Array, Tasks]:
        """(M,) mean meta-objective over a truncation of one member, and its runs after it."""

        def segment(_: Any, carry: tuple[jax.Array, Tasks]) -> tuple[jax.Array, Tasks]:
            total, tasks = carry
            losses, tasks = self.family.unroll(meta, tasks, self.config.unroll)
            return total + losses, tasks

        zeros = jnp.zeros((self.config.models,))
        total, tasks = jax.lax.fori_loop(0, segments, segment, (zeros, tasks))
        return total / segments, tasks

    def _slope(self, difference: jax.Array, change: Meta) -> Meta:
        """Of losses that differ by (...) under perturbations (..., *shape) of either sign."""
        axes = difference.ndim
        deviation = {name: self.config.perturbation * self.config.unit(name) for name in change}
        return {
            name: jnp.tensordot(difference, e, axes=axes) / (2 * deviation[name]**2)
            for name, e in change.items()}

    @abc.abstractmethod
    def _estimate(
        self, meta: Meta, state: Any, keys: jax.Array, segments: jax.Array
    ) -> tuple[Estimate, Any]:
        """`estimate`, pure, with a key for each member."""

    def estimate(self, meta, state, key, segments):
        return self._truncation(meta, state, key, jnp.int32(segments))

    def _compile_truncation(self, meta, state, key):
        self._truncation.compile(meta, state, key, jnp.int32(1))


class ES(_OneSided, _Evolution):
    """Evolution strategies with antithetic perturbations, new ones for each truncation.

    The gradient of E[L(meta + e)], e ~ N(0, s^2), is E[(L(meta + e) - L(meta - e)) e] / (2 s^2).
    Both sides start at the same place; the run goes on from where +e took it. With runs of one
    truncation this is full evolution strategies over whole runs.
    """

    def _estimate(self, meta, state, keys, segments):
        def member(tasks: Tasks, key: jax.Array) -> tuple[Meta, jax.Array, Tasks]:
            change = perturb(key, meta, self.config)
            up, after = self._run(_add(meta, change, 1.0), tasks, segments)
            down, _ = self._run(_add(meta, change, -1.0), tasks, segments)
            return self._slope(jnp.mean(up - down), change), (up + down) / 2, after

        gradients, losses, tasks = for_each_member(member, state, keys)
        return Estimate(gradients, losses), tasks


@serializable
class PESState(NamedTuple):
    """Both sides of the antithetic pairs.

    Attributes:
        up, down: the runs under the positive and the negative perturbations.
        total: by name, (G, M, ...): for each run the sum of its perturbations so far.
    """

    up: Tasks
    down: Tasks
    total: Meta


class PES(_Evolution):
    """Persistent evolution strategies (Vicol et al. 2021): unbiased across truncations.

    A run keeps its perturbed states; each truncation adds a new perturbation to the meta-parameters
    and its loss difference is weighted by the sum of all perturbations that the run has seen.
    """

    def _begun(self, tasks: Tasks, meta: Meta) -> PESState:
        runs = tasks.step.shape
        total = {name: jnp.zeros((*runs, *value.shape)) for name, value in meta.items()}
        return PESState(tasks, tasks, total)

    def _ended(self, state: PESState) -> jax.Array:
        return jnp.any(self.family.ended(state.up) | self.family.ended(state.down))

    def _renewed(self, state: PESState, fresh: Tasks) -> PESState:
        # Both sides of a run end together, and start from the same draw.
        lost = state.up.lost | state.down.lost
        up, down = (jax.vmap(self.family.renew)(side._replace(lost=lost), fresh)
                    for side in (state.up, state.down))
        new = up.step == 0

        def forget(total: jax.Array) -> jax.Array:
            return jnp.where(new.reshape(*new.shape, *(1,) * (total.ndim - 2)), 0.0, total)

        return PESState(up, down, jax.tree.map(forget, state.total))

    def runs(self, state: PESState) -> list[Tasks]:
        return [state.up]

    def _estimate(self, meta, state, keys, segments):
        def member(state: PESState, key: jax.Array) -> tuple[Meta, jax.Array, PESState]:
            change = perturb(key, meta, self.config)
            total = jax.tree.map(lambda sum_, e: sum_ + e, state.total, change)
            up_losses, up = self._run(_add(meta, change, 1.0), state.up, segments)
            down_losses, down = self._run(_add(meta, change, -1.0), state.down, segments)
            gradient = self._slope((up_losses - down_losses) / self.config.models, total)
            return gradient, (up_losses + down_losses) / 2, PESState(up, down, total)

        gradients, losses, state = for_each_member(member, state, keys)
        return Estimate(gradients, losses), state


@serializable
class NRESState(NamedTuple):
    """Both sides of the antithetic pairs.

    Attributes:
        up, down: the runs under the positive and the negative perturbation.
        change: by name, (G, ...): the perturbation of each member's runs.
    """

    up: Tasks
    down: Tasks
    change: Meta


class NRES(_Evolution):
    """Noise-reuse evolution strategies (Li et al. 2023, arXiv 2304.12180): a run keeps one
    perturbation from its start to its end.

    The runs of a member share it, have one length, and are renewed together.
    """

    def _drawn(self, key: jax.Array, first: jax.Array) -> Tasks:
        tasks = super()._drawn(key, first)
        return tasks._replace(horizon=jnp.broadcast_to(tasks.horizon[:, :1], tasks.horizon.shape))

    def _begun(self, tasks: Tasks, meta: Meta) -> NRESState:
        # Drawn in the first truncation, of runs at step 0.
        return NRESState(tasks, tasks, jax.tree.map(
            jnp.zeros_like, for_members(meta, len(tasks.step))))

    def _ended(self, state: NRESState) -> jax.Array:
        return jnp.any(self._over(state))

    def _over(self, state: NRESState) -> jax.Array:
        """(G,) whose runs are over."""
        ended = self.family.ended(state.up) | self.family.ended(state.down)
        return jnp.any(ended, axis=1)

    def _renewed(self, state: NRESState, fresh: Tasks) -> NRESState:
        over = jnp.broadcast_to(self._over(state)[:, None], state.up.step.shape)
        up, down = (jax.vmap(self.family.renew)(side._replace(lost=over), fresh._replace(
            horizon=jnp.where(over, fresh.horizon, side.horizon))) for side in (
                state.up, state.down))
        return NRESState(up, down, state.change)

    def runs(self, state: NRESState) -> list[Tasks]:
        return [state.up]

    def _estimate(self, meta, state, keys, segments):
        def member(state: NRESState, key: jax.Array) -> tuple[Meta, jax.Array, NRESState]:
            first = jnp.all(state.up.step == 0)
            change = jax.tree.map(
                lambda new, old: jnp.where(first, new, old), perturb(key, meta, self.config),
                state.change)
            up_losses, up = self._run(_add(meta, change, 1.0), state.up, segments)
            down_losses, down = self._run(_add(meta, change, -1.0), state.down, segments)
            gradient = self._slope(jnp.mean(up_losses - down_losses), change)
            return gradient, (up_losses + down_losses) / 2, NRESState(up, down, change)

        gradients, losses, state = for_each_member(member, state, keys)
        return Estimate(gradients, losses), state


class Mix(Estimator):
    """Truncated backpropagation and PES, each entry weighted by the inverse of its variance over
    members (Metz et al. 2019)."""

    def __init__(self, family: Family, config: TrainConfig, sharding: Any = None) -> None:
        super().__init__(family, config, sharding)
        self.parts = TBPTT(family, config, sharding), PES(family, config, sharding)

    def _drawn(self, key: jax.Array, first: jax.Array) -> tuple[Tasks, ...]:
        return tuple(
            part._drawn(k, first) for part, k in zip(self.parts, jax.random.split(key)))

    def _begun(self, tasks: tuple[Tasks, ...], meta: Meta) -> tuple[Any, ...]:
        return tuple(part._begun(t, meta) for part, t in zip(self.parts, tasks))

    def _renewed(self, state: tuple[Any, ...], fresh: tuple[Tasks, ...]) -> tuple[Any, ...]:
        return tuple(part._renewed(s, t) for part, s, t in zip(self.parts, state, fresh))

    def _ended(self, state: tuple[Any, ...]) -> jax.Array:
        return jnp.any(jnp.stack([part._ended(s) for part, s in zip(self.parts, state)]))

    def runs(self, state: tuple[Any, ...]) -> list[Tasks]:
        return [tasks for part, s in zip(self.parts, state) for tasks in part.runs(s)]

    def estimate(self, meta, state, key, segments):
        (a, first), (b, second) = (
            part.estimate(meta, s, k, segments)
            for part, s, k in zip(self.parts, state, jax.random.split(key)))
        gradients = jax.tree.map(inverse_variance_mean, a.gradients, b.gradients)
        losses = jnp.concatenate([a.losses, b.losses], axis=1)
        return Estimate(gradients, losses), (first, second)

    def unload(self):
        super().unload()
        for part in self.parts:
            part.unload()

    def _compile_truncation(self, meta, state, key):
        for part, s in zip(self.parts, state):
            part._compile_truncation(meta, s, key)


def inverse_variance_mean(a: jax.Array, b: jax.Array) -> jax.Array:
    """Entry by entry, the mean of two (G, ...) estimates weighted by the other one's variance."""
    var_a, var_b = (jnp.var(x, axis=0, keepdims=True) for x in (a, b))
    share = jnp.where(var_a + var_b > 0, var_b / (var_a + var_b + 1e-30), 0.5)
    return share * a + (1.0 - share) * b


_ESTIMATORS = {
    "tbptt": TBPTT, "full": Full, "es": ES, "pes": PES, "nres": NRES, "mix": Mix}


def make(family: Family, config: TrainConfig, sharding: Any = None) -> Estimator:
    """The estimator that the config names."""
    return _ESTIMATORS[config.estimator](family, config, sharding)


def _drawing_options() -> dict[str, int]:
    """Instances are drawn rarely, by large programs: on a CPU, optimizing these takes XLA six times
    as long as not, and they run milliseconds."""
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
