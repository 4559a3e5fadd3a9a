"""Families of problems that share one compiled program, and the tasks drawn from them.

Dimension letters: G members, M models of a member, N inner steps, B blocks and L lanes of the
parameters' buffer. Everything here is of one member, (M, ...); estimators map it over members.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hrnn_opt.interface import LearnedOptimizer, Seen, State, select, sized
from hrnn_opt.places.layout import Layout
from problems import Problem
from problems.problem import shared_numbers
from train.config import TrainConfig
from train.lengths import horizons, log_uniform
from train.programs import serializable

Meta = dict[str, jax.Array]


@serializable
class Place(NamedTuple):
    """Where a run is.

    Attributes:
        location: (M, B, L) where the next gradient is taken.
        offset: (M, B, L) the anchor (see `hrnn_opt/iterates.py`) less the location; None where
            they are the same.
    """

    location: jax.Array
    offset: jax.Array | None

    @property
    def anchor(self) -> jax.Array:
        """(M, B, L) the anchor."""
        return self.location if self.offset is None else self.location + self.offset


@serializable
class Tasks(NamedTuple):
    """The runs of one member, each at a place of its own.

    Attributes:
        key: (M, 2) of the run: its instance, start, minibatches and noise follow from it.
        spec: (M,) which of the family's specs it is an instance of.
        step: (M,) inner steps taken.
        horizon: (M,) inner steps after which the run ends.
        lost: (M,) the objective is not finite or has grown past the limit.
        learning_rate: (M,) multiplies the steps of the run.
        first_objective: (M,) the objective at the start of the run, f_0.
        instance: the problems' data.
        place: where the run is.
        state: of the learned optimizer.
    """

    key: Any
    spec: Any
    step: Any
    horizon: Any
    lost: Any
    learning_rate: Any
    first_objective: Any
    instance: Any
    place: Place
    state: State


def _select(condition: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(condition.reshape(-1, *[1] * (new.ndim - 1)), new, old)


class Family:
    """Specs of an equal program: one compiled unroll serves them all.

    Args:
        specs: problems with the same `program`.
        network: whose step is unrolled.
        config: of the training run.
    """

    def __init__(
        self, specs: Sequence[Problem], network: LearnedOptimizer, config: TrainConfig
    ) -> None:
        self.specs = list(specs)
        self.problem = self.specs[0]
        self.network = network
        self.config = config
        self.layout = Layout(self.problem.shapes)
        self._numbers = shared_numbers(self.specs)

    @property
    def name(self) -> str:
        """Readable and unique among families: the first spec, and how many share its program."""
        more = len(self.specs) - 1
        return f"{self.problem!r}" + (f" +{more}" if more else "")

    # Drawing runs.

    def draw(self, key: jax.Array, first: jax.Array | bool = False) -> Tasks:
        """M new runs.

        Args:
            key: one random key.
            first: the very first runs get a part of a whole run's length, so that later the runs
                of a member are at all their phases at any time.
        """
        models = self.config.models
        keys = jax.random.split(key, models + 3)
        run_keys, (spec_key, length_key, rate_key) = keys[:models], keys[models:]
        spec = jax.random.randint(spec_key, (models,), 0, len(self.specs))
        numbers = jax.tree.map(lambda leaf: leaf[spec], self._numbers)

        def start(key: jax.Array, numbers: Any) -> tuple[Any, Any]:
            instance = self.problem.sample_instance(jax.random.fold_in(key, 0), numbers)
            return instance, self.problem.initial_parameters(jax.random.fold_in(key, 1), instance)

        instance, parameters = jax.vmap(start)(run_keys, numbers)
        location = self.layout.flatten(parameters)
        log_rates = None
        if self.network.takes_log_rates:
            log_rates = self._initial_log_learning_rates(jax.random.fold_in(rate_key, 0))
        rate = log_uniform(
            jax.random.fold_in(rate_key, 1), *self.config.learning_rate, (models,))
        # The RNNs' start vectors are meta-parameters: `unroll` puts them in, differentiably.
        state = self.network.init_state(self.layout, (models,), log_rates)
        offset = jnp.zeros_like(location) if self.network.iterates.keeps_offset else None
        return Tasks(
            key=jax.vmap(jax.random.key_data)(run_keys),
            spec=spec,
            step=jnp.zeros((models,), jnp.int32),
            horizon=horizons(length_key, self.config, first),
            lost=jnp.zeros((models,), bool),
            learning_rate=rate,
            first_objective=jax.vmap(self.problem.objective)(parameters, instance),
            instance=instance,
            place=Place(location, offset),
            state=state,
        )

    def _initial_log_learning_rates(self, key: jax.Array) -> jax.Array:
        """(M, B, L): for each tensor a part u and for each parameter a part v of the log range."""
        shape = (self.config.models, self.layout.blocks, self.layout.lanes)
        low, high = np.log(self.config.initial_learning_rate) / 2
        tensor_key, parameter_key = jax.random.split(key)
        u = jax.random.uniform(
            tensor_key, (self.config.models, self.layout.tensors), minval=low, maxval=high)
        return self.layout.to_lanes(u) + jax.random.uniform(
            parameter_key, shape, minval=low, maxval=high)

    @staticmethod
    def ended(tasks: Tasks) -> jax.Array:
        """(M,) which runs are over: done, or lost."""
        return (tasks.step >= tasks.horizon) | tasks.lost

    def renew(self, tasks: Tasks, fresh: Tasks) -> Tasks:
        """The runs, with fresh ones in place of those that have ended."""
        ended = self.ended(tasks)
        return jax.tree.map(lambda new, old: _select(ended, new, old),
                            fresh._replace(state=None), tasks._replace(state=None)
                            )._replace(state=select(
                                self.network.fields, ended, fresh.state, tasks.state))

    # Unrolling.

    def unroll(self, meta: Meta, tasks: Tasks, length: int) -> tuple[jax.Array, Tasks]:
        """One truncation: N inner steps of each run.

        Args:
            meta: meta-parameters by name.
            tasks: M runs.
            length: N, a multiple of `objective_every`.

        Returns:
            (M,) meta-objective of each run, and the runs N steps on.
        """
        every = self.config.objective_every

        def evaluated(carry: Any, given: Any) -> tuple[Any, jax.Array]:
            # Outside of what is computed anew for the derivative: it keeps its own.
            carry = self._stepped(meta, tasks, carry, given)
            return carry, self.objective(tasks.instance, carry[0])

        # (N, ...) -> (N / every, every, ...)
        given = jax.tree.map(
            lambda leaf: leaf.reshape(length // every, every, *leaf.shape[1:]),
            self._given(tasks, length))
        carry, objectives = jax.lax.scan(evaluated, self._begin(meta, tasks), given)
        losses = jnp.mean(self._meta_objective(objectives, tasks.first_objective), axis=0)
        return losses, self._after(tasks, length, carry, objectives[-1])

    def advance(self, meta: Meta, tasks: Tasks, length: int) -> Tasks:
        """The runs N inner steps on, as `unroll` has them, at no objective but the last one's
        cost."""
        carry = self._stepped(meta, tasks, self._begin(meta, tasks), self._given(tasks, length))
        return self._after(tasks, length, carry, self.objective(tasks.instance, carry[0]))

    def _begin(self, meta: Meta, tasks: Tasks) -> tuple[Place, State]:
        # Drawn ones are kept; start vectors are meta-parameters, and so to be differentiated.
        drawn = tasks.state["log_learning_rate"] if self.network.takes_log_rates else None
        fresh = self.network.stateless_init_state(meta, self.layout, tasks.step.shape, drawn)
        return tasks.place, select(self.network.fields, tasks.step == 0, fresh, tasks.state)

    def _given(self, tasks: Tasks, length: int) -> tuple[Any, jax.Array]:
        """(N, M, ...) minibatches of the next N inner steps, and (N,) which these are."""
        batches = jax.vmap(
            lambda key, start, instance: self.problem.batches(
                jax.random.fold_in(jax.random.wrap_key_data(key), 2), start, length, instance)
        )(tasks.key, tasks.step, tasks.instance)
        return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), batches), jnp.arange(length)

    def _stepped(self, meta: Meta, tasks: Tasks, carry: Any, given: Any) -> tuple[Place, State]:
        """The runs' (place, state) after the inner steps (n, ...) given."""

        @jax.checkpoint
        def inner(carry: Any, given: Any) -> tuple[Any, None]:
            return self._inner_step(meta, tasks, carry, *given), None

        if len(given[1]) == 1:
            return inner(carry, jax.tree.map(lambda leaf: leaf[0], given))[0]
        return jax.lax.scan(inner, carry, given)[0]

    def _after(
        self, tasks: Tasks, length: int, carry: tuple[Place, State], objective: jax.Array
    ) -> Tasks:
        """The runs N steps on, at (M,) this objective."""
        limit = self.config.growth_limit * jnp.maximum(tasks.first_objective, 1e-6)
        return tasks._replace(
            step=tasks.step + length, lost=~jnp.isfinite(objective) | (objective > limit),
            place=carry[0], state=carry[1])

    def _inner_step(
        self, meta: Meta, tasks: Tasks, carry: tuple[Place, State], batch: Any, offset: Any
    ) -> tuple[Place, State]:
        (location, away), state = place, state = carry
        at = tuple(self.layout.unflatten(location)), tasks.instance, batch
        gradient, loss = self.layout.flatten(jax.vmap(self.problem.gradient)(*at)), None
        if "loss" in self.network.needs:
            loss = jax.vmap(self.problem.minibatch_objective)(*at)
        if not self.config.second_derivatives:
            gradient, loss = jax.lax.stop_gradient((gradient, loss))
        done = (tasks.step + offset) / tasks.horizon
        state, step = self.network.stateless_step(
            meta, self.layout, state,
            Seen(gradient, parameters=place.anchor, loss=loss, progress=self._told(tasks, done),
                 offset=away, horizon=tasks.horizon.astype("float32")))
        step = sized(step, self.layout)
        rate = tasks.learning_rate
        if self.config.learning_rate_schedule == "cosine":
            rate = rate * 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(done, 0.0, 1.0)))
        rate = rate[:, None, None]
        anchor, location = self.network.iterates.move(
            place.anchor, away, rate * step.update,
            None if step.ahead is None else rate * step.ahead,
            None if step.weight is None else step.weight[:, None, None])
        return Place(location, None if away is None else anchor - location), state

    def _told(self, tasks: Tasks, done: jax.Array) -> jax.Array | None:
        """(M,) what the optimizer is told of the share of its run that is done: -1 is nothing."""
        if self.config.horizon == "both":
            # Of the run's key, so that nothing new is to be kept.
            return jnp.where(tasks.key[:, 1] % 2 == 0, done, -1.0)
        return done if self.config.horizon == "known" else None

    def objective(self, instance: Any, place: Place) -> jax.Array:
        """(M,) noise-free objective on all data, at what is trained.

        What the derivative needs is kept of it by the parameters alone, and not of the data.
        """
        at = place.anchor if self.network.iterates.attends else place.location
        return self._objectives(at, instance)

    @functools.cached_property
    def _objectives(self) -> Callable[[jax.Array, Any], jax.Array]:
        def values(at: jax.Array, instance: Any) -> jax.Array:
            return jax.vmap(self.problem.objective)(tuple(self.layout.unflatten(at)), instance)

        def forward(at: jax.Array, instance: Any) -> tuple[jax.Array, jax.Array]:
            found, pull = jax.vjp(lambda at: values(at, instance), at)
            return found, pull(jnp.ones_like(found))[0]

        def backward(slopes: jax.Array, upstream: jax.Array) -> tuple[jax.Array, None]:
            # A loss that is cut off has no derivative, whatever the objective's own is there.
            upstream = upstream[:, None, None]
            return jnp.where(upstream == 0, 0.0, slopes * upstream), None

        objectives = jax.custom_vjp(values)
        objectives.defvjp(forward, backward)
        return objectives

    def _meta_objective(self, objectives: jax.Array, first: jax.Array) -> jax.Array:
        """log(f / (f_0 + 1e-6) + least), or f / f_0 (paper, section 4.2), finite whatever f is."""
        ratio = objectives / (first + 1e-6)
        ratio = jnp.where(jnp.isfinite(ratio), jnp.minimum(ratio, 1e9), 1e9)
        if self.config.objective == "plain":
            return ratio
        return jnp.log(ratio + self.config.objective_least)
