"""The joint: all that the rest of the library may know of a learned optimizer.

A learned optimizer is a set of meta-parameters, a state and a step. The state is a dict of arrays
whose `Field`s are declared once; what happens to them when a step is not taken, under `vmap`, in
narrow types, on many devices and in files follows from the declaration.

Dimension letters: K tensors, B blocks and L lanes of the flat buffer (see `places/layout.py`), and
`...` for any axes of models that are optimized side by side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
from keras import ops

from hrnn_opt import checks
from hrnn_opt.iterates import Iterates, Plain
from hrnn_opt.places import backend
from hrnn_opt.places.layout import Layout

State = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Field:
    """One array of a state, of shape (*leading, ..., *place).

    Args:
        of: what its numbers belong to, and so its place: `"parameter"` (B, L), `"tensor"` (K,),
            `"model"` (), or `"vector"`, one vector of numbers that belong to tensors.
        leading: axes in front of those of the models (features, time scales).
        wide: it stays in 32 bits where the state is kept in half of them: counts, slow averages,
            orthonormal axes.
        owners: of a `"vector"`: for a layout, the tensor that each of its numbers belongs to.
        of_moves: of a `"model"`: it tells of moves that were made, not of gradients. It stays as it
            is at a learning rate of 0, where nothing moves.
    """

    of: str = "parameter"
    leading: tuple[int, ...] = ()
    wide: bool = False
    owners: Callable[[Layout], np.ndarray] | None = None
    of_moves: bool = False

    def shape(self, layout: Layout, models: tuple[int, ...] = ()) -> tuple[int, ...]:
        """The shape of the array."""
        place = {
            "parameter": (layout.blocks, layout.lanes), "tensor": (layout.tensors,), "model": (),
        }.get(self.of)
        if place is None:
            place = (len(self._owners(layout)),)
        return (*self.leading, *models, *place)

    @property
    def models_axis(self) -> int:
        """Where the axis of the models is, if there is one."""
        return len(self.leading)

    def keep_inactive(self, layout: Layout, active: Any, new: Any, old: Any) -> Any:
        """The new array, with the old numbers of the tensors that are not active, (K,)."""
        if self.of == "model":
            return new
        if self.of == "parameter":
            active = layout.to_lanes(active)
        elif self.of == "vector":
            active = ops.take(active, self._owners(layout), axis=-1)
        return ops.where(active, new, old)

    def _owners(self, layout: Layout) -> np.ndarray:
        if self.of != "vector" or self.owners is None:
            raise ValueError(
                "`of` must be 'parameter', 'tensor', 'model', or 'vector' with `owners`, got "
                f"{self.of!r}.")
        return self.owners(layout)


class Seen(NamedTuple):
    """What an optimizer may look at in a step. It is given what it `needs`; the rest is None.

    Attributes:
        gradient: (..., B, L) at the location where the caller takes gradients.
        parameters: (..., B, L) the anchor (see `iterates.py`).
        loss: (...) of the batch that the gradient is of; None where nobody knows.
        progress: (...) share of the training that is done, from 0 to 1; None where nobody knows,
            and below 0 in those of several models of which nobody does.
        horizon: (...) number of steps of the whole training; None where nobody knows.
        offset: (..., B, L) the anchor less the location of the gradient; None where they are the
            same.
    """

    gradient: Any
    parameters: Any = None
    loss: Any = None
    progress: Any = None
    offset: Any = None
    horizon: Any = None


class Step(NamedTuple):
    """What a step asks for, before the caller's learning rate.

    Attributes:
        update: (..., B, L) to be subtracted from the fast iterate (see `iterates.py`).
        ahead: (..., B, L) with lookahead, to be subtracted from the OLD parameters for the location
            of the next gradient.
        weight: (...) with averaging, of the new iterate in the average.
        size: (..., K) factors of the tensors' updates, which whoever scales these applies after
            that (`sized`); None for 1.
        squares: (..., B) sums over lanes of the update's squares, for rules that scale it. A
            network may leave them out; they are cheapest while the update is made.
        metric: (..., B, L) running mean squares of the gradient's entries, for rules that measure
            in them; None where a network keeps none.
    """

    update: Any
    ahead: Any = None
    weight: Any = None
    size: Any = None
    squares: Any = None
    metric: Any = None


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """What decides the form of a learned optimizer: a network's config, and those of the rules
    around it, the outermost first."""

    core: checks.Config
    rules: tuple[checks.Config, ...] = ()

    @property
    def kind(self) -> str:
        """The kind of the network, by which it is registered."""
        return self.core.NAME

    def to_dict(self) -> dict[str, Any]:
        """As a weights file spells it out: `registry.config_from_dict` reads it."""
        return {
            "kind": self.kind, **self.core.to_dict(),
            "rules": [[rule.NAME, rule.to_dict()] for rule in self.rules]}


class LearnedOptimizer(keras.layers.Layer):
    """A learned optimizer: meta-parameters, and the step that they define.

    A subclass has a `Config` and declares its `fields`, adds its weights with `add_weight`, and
    implements `init_state` and `advance`. `@register` makes it known by its config's name.

    Args:
        config: its switches; None: the defaults.

    Attributes:
        Config: the class of its config.
        needs: which of the attributes of `Seen` it reads beside the gradient.
        still: an entry whose gradient has always been 0 is not moved. Where it is not so, the
            caller may leave out tensors without gradient.
        learning_rate: what its steps are to be multiplied by where the caller does not say.
        takes_log_rates: it starts from a log learning rate for each parameter.
        wraps: it is a rule around another one.
        hierarchical: networks of tensors and of the model stand above those of the parameters.
        starts: by name, functions that write start values into a network that was just made.
    """

    Config: ClassVar[type[checks.Config]]
    needs: ClassVar[frozenset[str]] = frozenset()
    still: bool = True
    learning_rate: float = 1.0
    takes_log_rates: bool = False
    wraps: ClassVar[bool] = False
    hierarchical: bool = False
    starts: ClassVar[Mapping[str, Callable[[Any], None]]] = {"drawn": lambda network: None}

    def __init__(self, config: checks.Config | None = None, **kwargs: Any) -> None:
        # Whatever Keras's policy is: it is the models' business.
        super().__init__(dtype="float32", autocast=False, **kwargs)
        if config is not None and not isinstance(config, self.Config):
            raise ValueError(
                f"`config` must be a {self.Config.__name__}, got {type(config).__name__}.")
        # Of the class that a subclass names.
        self.config: Any = config or self.Config()

    # To be implemented.

    @property
    def fields(self) -> dict[str, Field]:
        """Every array of the state, by name."""
        raise NotImplementedError

    def init_state(
        self, layout: Layout, models: tuple[int, ...] = (), log_rates: Any | None = None
    ) -> State:
        """The state before the first step: zeros, unless a subclass says otherwise.

        Args:
            layout: where the parameters lie.
            models: axes of models side by side.
            log_rates: (..., B, L) initial log learning rates, where it `takes_log_rates`.
        """
        return {
            name: ops.zeros(field.shape(layout, models)) for name, field in self.fields.items()}

    def advance(
        self, layout: Layout, state: State, seen: Seen, active: Any | None
    ) -> tuple[State, Step]:
        """One step of all tensors that is taken; the caller sees to the others.

        Args:
            layout, state, seen: as in `step`.
            active: (K,) booleans, or None for all: whose numbers may count in means over tensors.
        """
        raise NotImplementedError

    def describe(self, state: State, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        """What there is to log of one tensor.

        Args:
            state: in NumPy, of this tensor: (*leading, N) where numbers belong to parameters,
                (*leading,) where to the tensor or the model; no `"vector"`s.
            shape: of the tensor.

        Returns:
            By quantity (`training/dynamics.py` lists them): (N,) of parameters, (S, N) by time
            scale, () of the tensor, and of the model with "global" in front.
        """
        return {}

    @classmethod
    def from_released(
        cls, arrays: Mapping[str, np.ndarray], constants: Mapping[str, Any]
    ) -> tuple[checks.Config, dict[str, np.ndarray]] | None:
        """What the authors' own program wrote, as a config and meta-parameters of ours.

        Args:
            arrays: by the names of their program, the keys of nested dicts joined by `/`.
            constants: switches of the config that cannot be told from the arrays.

        Returns:
            None if the arrays are of no optimizer of this kind, by their names.

        Raises:
            ValueError: if they are, but do not fit together.
        """
        return None

    def compile_step(self) -> None:
        """Have PyTorch compile `_move`, which takes the time of a step, from now on. Nothing
        elsewhere, nor for networks that have no such method."""
        if keras.backend.backend() == "torch" and (move := getattr(self, "_move", None)):
            self._move = backend.torch_program(move)

    # What all have.

    @property
    def iterates(self) -> Iterates:
        """What is done with its steps."""
        return Plain()

    @property
    def network_config(self) -> NetworkConfig:
        """The config with those of the rules, of which a network by itself has none."""
        return NetworkConfig(self.config)

    @property
    def meta_parameters(self) -> dict[str, keras.Variable]:
        """Every meta-parameter by name."""
        return {variable.name: variable for variable in self.weights}

    def step(
        self, layout: Layout, state: State, seen: Seen, active: Any | None = None,
        taken: Any | None = None,
    ) -> tuple[State, Step]:
        """One step of the learned optimizer.

        Args:
            layout: where the parameters lie.
            state: from `init_state` or the step before.
            seen: what it may look at.
            active: (K,) booleans: the tensors that take part in this step. The others stay as they
                are. None: all.
            taken: () boolean: whether the step is taken. If not, the new state is the old one, and
                the step is not to be used. The old state may be overwritten by the new one, on
                PyTorch. None: it is taken, and the old state stays.

        Returns:
            The new state, and the step to take.
        """
        new, step = self.advance(layout, state, seen, active)
        return self.settled(layout, state, new, step, active, taken)

    def settled(
        self, layout: Layout, old: State, new: State, step: Step, active: Any | None,
        taken: Any | None, held: State | None = None,
    ) -> tuple[State, Step]:
        """What `step` gives: what was computed as if all tensors took part in a step that is taken,
        with what belongs to the others as it was.

        Args:
            layout, active, taken: as in `step`.
            old: the state before it.
            new: the arrays of the state after it that are not in `held`.
            step: of all tensors.
            held: those arrays of the state after it that are as they are to be.
        """
        held = held or {}
        fields = {name: field for name, field in self.fields.items() if name not in held}
        return (held | keep(fields, layout, old, new, active, taken),
                without_inactive(step, layout, active))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "config": self.config.to_dict()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LearnedOptimizer:
        return cls(cls.Config.from_dict(config["config"]), name=config.get("name"))

    # The same, as functions of the meta-parameters.

    def _with(self, meta_parameters: Mapping[str, Any]) -> keras.StatelessScope:
        variables = self.meta_parameters
        if set(meta_parameters) != set(variables):
            differ = sorted(set(meta_parameters) ^ set(variables))
            raise ValueError(
                f"`meta_parameters` must have the network's names; these differ: {differ}.")
        return keras.StatelessScope(
            state_mapping=[(variables[name], value) for name, value in meta_parameters.items()])

    def stateless_init_state(
        self, meta_parameters: Mapping[str, Any], layout: Layout, models: tuple[int, ...] = (),
        log_rates: Any | None = None,
    ) -> State:
        """`init_state` with the given meta-parameters in place of the network's own."""
        with self._with(meta_parameters):
            return self.init_state(layout, models, log_rates)

    def stateless_step(
        self, meta_parameters: Mapping[str, Any], layout: Layout, state: State, seen: Seen,
        active: Any | None = None, taken: Any | None = None,
    ) -> tuple[State, Step]:
        """`step` with the given meta-parameters in place of the network's own.

        Raises:
            ValueError: if `meta_parameters` has not exactly the network's names.
        """
        with self._with(meta_parameters):
            return self.step(layout, state, seen, active, taken)


def keep(
    fields: Mapping[str, Field], layout: Layout, old: State, new: State, active: Any | None,
    taken: Any | None,
) -> State:
    """The new state in the types of the old one, with what belongs to tensors that are not active
    as it was, and all of it as it was unless the step is taken."""
    if active is not None:
        active = ops.convert_to_tensor(active, "bool")
    kept = {}
    for name, field in fields.items():
        kept[name] = new[name]
        if new[name] is old[name]:
            continue
        kept[name] = ops.cast(new[name], old[name].dtype)
        if active is not None:
            kept[name] = field.keep_inactive(layout, active, kept[name], old[name])
        if taken is not None:
            kept[name] = ops.where(taken, kept[name], old[name])
    return kept


def without_inactive(step: Step, layout: Layout, active: Any | None) -> Step:
    """The step, with updates of 0 for the tensors that are not active."""
    if active is None:
        return step
    moves = layout.to_lanes(ops.convert_to_tensor(active, "bool"))
    return step._replace(
        update=ops.where(moves, step.update, 0.0),
        ahead=None if step.ahead is None else ops.where(moves, step.ahead, 0.0))


def sized(step: Step, layout: Layout) -> Step:
    """The step, with the sizes of its tensors in its updates."""
    if step.size is None:
        return step
    size = layout.to_lanes(step.size)
    return step._replace(
        update=size * step.update, size=None,
        ahead=None if step.ahead is None else size * step.ahead)


def select(
    fields: Mapping[str, Field], condition: Any, new: State, old: State
) -> State:
    """The state of each model from `new` where its (M,) condition holds, else from `old`."""

    def of_models(name: str) -> Any:
        shape = [1] * len(new[name].shape)
        shape[fields[name].models_axis] = -1
        return ops.where(ops.reshape(condition, shape), new[name], old[name])

    return {name: of_models(name) for name in new}
