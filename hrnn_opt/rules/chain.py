"""What all rules are: learned optimizers around another one.

A rule's state contains that of what it wraps; its meta-parameters stand beside the other's. Rules
compose: `Averaging(Rotation(Alignment(Rescaling(network))))` is the hand-made optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import keras
from keras import ops

from hrnn_opt.checks import Config
from hrnn_opt.interface import Field, LearnedOptimizer, NetworkConfig, Seen, State, Step
from hrnn_opt.iterates import Iterates
from hrnn_opt.places.layout import Layout

Inner = Callable[[Seen], Step]


class Rule(LearnedOptimizer):
    """A rule around a learned optimizer.

    A subclass declares its `own_fields`, and implements `around`; what it does not touch is the
    inner one's.

    Args:
        inner: what it wraps.
        config: its switches; None: made of the options.
        options: switches that differ from the defaults.

    Raises:
        ValueError: if a switch is not allowed, or the inner one has a state of the same name.
    """

    wraps: ClassVar[bool] = True

    def __init__(
        self, inner: LearnedOptimizer, config: Config | None = None, **options: Any
    ) -> None:
        super().__init__(self.Config.from_dict(options) if config is None else config)
        self.inner = inner
        self.still = inner.still
        self.learning_rate = inner.learning_rate
        self.takes_log_rates = inner.takes_log_rates
        self.hierarchical = inner.hierarchical
        shared = sorted(set(self.own_fields) & set(inner.fields))
        if shared:
            raise ValueError(f"`inner` must not have the state {shared} of {self.Config.NAME!r}.")

    @property
    def own_fields(self) -> dict[str, Field]:
        """The arrays of the rule's own state, by name."""
        return {}

    def around(
        self, layout: Layout, state: State, seen: Seen, inner: Inner, active: Any | None
    ) -> tuple[State, Step]:
        """One step.

        Args:
            layout, state, seen, active: as in `LearnedOptimizer.advance`.
            inner: takes the step of what is wrapped, given what that shall see; called once.

        Returns:
            The rule's own new state, and the step.
        """
        raise NotImplementedError

    # What follows.

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return self.inner.needs

    @property
    def iterates(self) -> Iterates:
        return self.inner.iterates

    @property
    def fields(self) -> dict[str, Field]:
        return {**self.inner.fields, **self.own_fields}

    @property
    def network_config(self) -> NetworkConfig:
        inner = self.inner.network_config
        return NetworkConfig(inner.core, (self.config, *inner.rules))

    @property
    def meta_parameters(self) -> dict[str, keras.Variable]:
        of_inner = self.inner.meta_parameters
        below = {id(variable) for variable in of_inner.values()}
        return of_inner | {v.name: v for v in self.weights if id(v) not in below}

    def init_own_state(self, layout: Layout, models: tuple[int, ...]) -> State:
        """The rule's own state before the first step: zeros, unless a subclass says otherwise."""
        return {
            name: ops.zeros(field.shape(layout, models)) for name, field in self.own_fields.items()}

    def init_state(self, layout, models=(), log_rates=None):
        return {**self.inner.init_state(layout, models, log_rates),
                **self.init_own_state(layout, models)}

    def step(self, layout, state, seen, active=None, taken=None):
        after: State = {}

        def inner(seen: Seen) -> Step:
            of_inner, step = self.inner.step(
                layout, {name: state[name] for name in self.inner.fields}, seen, active, taken)
            after.update(of_inner)
            return step

        own, step = self.around(layout, state, seen, inner, active)
        return self.settled(layout, state, own, step, active, taken, held=after)

    def describe(self, state, shape):
        return self.inner.describe(state, shape)

    def compile_step(self):
        self.inner.compile_step()


def network_within(network: LearnedOptimizer) -> LearnedOptimizer:
    """The network inside all rules."""
    while isinstance(network, Rule):
        network = network.inner
    return network


def rules_around(network: LearnedOptimizer) -> Iterator[Rule]:
    """The rules around a network, the outermost first."""
    while isinstance(network, Rule):
        yield network
        network = network.inner
