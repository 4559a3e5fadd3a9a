"""What every learned optimizer has: a state, a step, and a network whose weights define them.

Dimension letters: K tensors, B blocks and L lanes of the flat buffer (see `layout.py`), S gradient
time scales, P, T and G hidden units of the Parameter, Tensor and Global RNN, and `...` for any axes
of models that are optimized side by side.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from hrnn_opt.layout import Layout

# Fields of a `State` that end in an axis of tensors, and those of the model as a whole. The others
# end in blocks and lanes.
PER_TENSOR = ("tensor_hidden", "update_scale")
PER_MODEL = ("global_hidden", "steps", "log_step_size", "moments", "axes")


class State(NamedTuple):
    """What the optimizer remembers between steps; None where the config has no use of a field.

    Attributes:
        hidden: (P, ..., B, L) Parameter RNN.
        averages: (S, ..., B, L) gradient averages by time scale; None with one time scale.
        mean_squares: (S, ..., B, L) running mean squares of the averages.
        input_decay: (..., B, L) decay of the fastest average; None with one time scale.
        scale_decay: (..., B, L) decay of the mean squares.
        log_learning_rate: (..., B, L) running mean of the log learning rate.
        tensor_hidden: (T, ..., K) Tensor RNN.
        global_hidden: (G, ...) Global RNN.
        update_scale: (2, ..., K) running mean square of each tensor's updates before they are
            scaled, and the sum of the weights in that mean.
        steps: (...) steps taken; with averaging or turned axes.
        log_step_size: (...) log of the factor of all updates; with alignment control.
        moments, axes: (..., numbers) of the rotation; with turned axes (`rotation.py`). What else
            belongs to single parameters then belongs to entries of the turned tensors.
        true_parameters: (..., B, L) the parameters themselves, where lookahead or averaging keeps
            the model elsewhere.
    """

    hidden: Any = None
    averages: Any = None
    mean_squares: Any = None
    input_decay: Any = None
    scale_decay: Any = None
    log_learning_rate: Any = None
    tensor_hidden: Any = None
    global_hidden: Any = None
    update_scale: Any = None
    steps: Any = None
    log_step_size: Any = None
    moments: Any = None
    axes: Any = None
    true_parameters: Any = None


class Step(NamedTuple):
    """What a step asks for, in (..., B, L) buffers, before the caller's learning rate.

    Attributes:
        update: to be subtracted from the parameters.
        attended_update: to be subtracted from the OLD parameters for the location of the next
            gradient; None without lookahead.
        averaging_weight: (...) of the new iterate in the average; None without averaging.
    """

    update: Any
    attended_update: Any
    averaging_weight: Any = None


class Network(keras.layers.Layer):
    """A learned optimizer as a network: meta-parameters, and the step that they define.

    What `HierarchicalLOpt` and meta-training work with. A subclass adds its weights, and
    implements `init_state` and `step`.

    Args:
        config: the switches.

    Attributes:
        config: the switches.
        settings: of `hrnn_opt.Pretrained`, where the numbers came with some.
    """

    def __init__(self, config: Any, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.config = config
        self.settings: dict[str, Any] = {}

    @property
    def meta_parameters(self) -> dict[str, keras.Variable]:
        """Every meta-parameter by name."""
        return {variable.name: variable for variable in self.weights}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "config": self.config.to_dict()}

    def init_state(
        self, layout: Layout, log_learning_rate: Any, parameters: Any | None = None
    ) -> State:
        """The state before the first step; arguments as `HierarchicalRNN.init_state` takes them."""
        raise NotImplementedError

    def step(
        self, layout: Layout, state: State, gradient: Any, active: np.ndarray | None = None,
        taken: Any | None = None, offset: Any | None = None,
    ) -> tuple[State, Step]:
        """One step; arguments and results are those of `HierarchicalRNN.step`."""
        raise NotImplementedError

    @staticmethod
    def _keep_inactive(
        layout: Layout, active: np.ndarray, state: State, new_state: State, update: Any,
        attended_update: Any,
    ) -> tuple[State, Any, Any]:
        """Undo the step for the tensors that had no gradient."""
        active_K = ops.convert_to_tensor(np.asarray(active, bool))
        active_Bx1 = layout.to_lanes(active_K)

        def keep(condition, new, old):
            return None if new is None else ops.where(condition, new, old)

        kept = {
            name: keep(active_K if name in PER_TENSOR else active_Bx1, new, old)
            for name, new, old in zip(State._fields, new_state, state)
            if name not in PER_MODEL
        }
        return (
            new_state._replace(**kept),
            keep(active_Bx1, update, ops.zeros_like(update)),
            keep(active_Bx1, attended_update, ops.zeros_like(update)),
        )

    @staticmethod
    def _keep_unless(
        taken: Any, state: State, new_state: State, fields: Sequence[str] = State._fields
    ) -> State:
        """The new state, with these fields as they were unless the step is taken."""
        pairs = {name: (getattr(new_state, name), getattr(state, name)) for name in fields}
        return new_state._replace(**{
            name: ops.where(taken, new, old) for name, (new, old) in pairs.items()
            if new is not None and new is not old})

    def compile_step(self) -> None:
        """Have PyTorch compile what takes the time of a step from now on. Nothing elsewhere, nor
        for networks that have no such part."""

    # The same, as functions of the meta-parameters.

    def _with(self, meta_parameters: dict[str, Any]) -> keras.StatelessScope:
        variables = self.meta_parameters
        if set(meta_parameters) != set(variables):
            differ = sorted(set(meta_parameters) ^ set(variables))
            raise ValueError(
                f"`meta_parameters` must have the network's names; these differ: {differ}.")
        return keras.StatelessScope(
            state_mapping=[(variables[name], value) for name, value in meta_parameters.items()])

    def stateless_init_state(
        self, meta_parameters: dict[str, Any], layout: Layout, log_learning_rate: Any,
        parameters: Any | None = None,
    ) -> State:
        """`init_state` with the given meta-parameters in place of the network's own."""
        with self._with(meta_parameters):
            return self.init_state(layout, log_learning_rate, parameters)

    def stateless_step(
        self, meta_parameters: dict[str, Any], layout: Layout, state: State, gradient: Any,
        active: np.ndarray | None = None, taken: Any | None = None, offset: Any | None = None,
    ) -> tuple[State, Step]:
        """`step` with the given meta-parameters in place of the network's own.

        Raises:
            ValueError: if `meta_parameters` has not exactly the network's names.
        """
        with self._with(meta_parameters):
            return self.step(layout, state, gradient, active, taken, offset)

    # Files, and the Hub. `hrnn_opt.weights`, which has the work, is built on this module.

    def save(self, path: str | os.PathLike[str], card: str = "", **settings: Any) -> None:
        """Write a weights file or folder: see `hrnn_opt.Pretrained.save`.

        Args:
            path: of a file if it ends in `.safetensors`, else of a folder.
            card: for its readers, in Markdown; for a folder.
            settings: those of `hrnn_opt.Pretrained` that differ from the network's own.
        """
        self._pretrained(settings).save(path, card)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Network:
        """The network in a weights file or folder: see `hrnn_opt.Pretrained.load`."""
        from hrnn_opt.weights import Pretrained

        return Pretrained.load(path).network()

    def push_to_hub(
        self, name: str, card: str = "", private: bool | None = None, token: str | None = None,
        **settings: Any,
    ) -> str:
        """Put the network on the Hub: see `hrnn_opt.Pretrained.push_to_hub`."""
        return self._pretrained(settings).push_to_hub(name, card, private, token)

    @classmethod
    def from_pretrained(cls, name: str) -> Network:
        """The network behind a name that `HierarchicalLOpt` takes for its weights: on the Hub, of
        a file or folder, or a shipped one."""
        from hrnn_opt.weights import resolve

        return resolve(name).network()

    def _pretrained(self, settings: dict[str, Any]) -> Any:
        from hrnn_opt.weights import Pretrained

        return Pretrained.from_network(self, **settings)
