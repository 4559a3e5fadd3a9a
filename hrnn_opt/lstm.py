"""The learned optimizer before this one: an LSTM for each parameter, which knows of no other.

Andrychowicz et al., "Learning to learn by gradient descent by gradient descent", NIPS 2016
(https://arxiv.org/abs/1606.04474). Dimension letters are those of `base.py`; U units.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from hrnn_opt.base import Network, State, Step
from hrnn_opt.config import check, is_number
from hrnn_opt.layers import affine
from hrnn_opt.layout import Layout

# Keeps most of the cell at the start.
_FORGET_BIAS = 1.0


@dataclasses.dataclass(frozen=True)
class CoordinatewiseLSTMConfig:
    """The numbers of the coordinatewise LSTM, by default the paper's.

    Args:
        layers: LSTMs on top of each other.
        units: hidden size of each.
        log_range: p of the preprocessing: gradients are told apart by size from exp(-p) on.
        output_scale: multiplies what is read out.

    Raises:
        ValueError: naming the argument, what came and what is allowed.
    """

    layers: int = 2
    units: int = 20
    log_range: float = 10.0
    output_scale: float = 0.1

    KIND: ClassVar[str] = "coordinatewise_lstm"
    # What other configs may switch.
    lookahead: ClassVar[bool] = False
    averaging: ClassVar[float] = 0.0
    attends: ClassVar[bool] = False
    step_size: ClassVar[str] = "direct"

    def __post_init__(self) -> None:
        for name, most in (("layers", 8), ("units", 1024)):
            value = getattr(self, name)
            check(self, name, is_number(value, int) and 1 <= value <= most,
                  f"an integer from 1 to {most}")
        for name in ("log_range", "output_scale"):
            value = getattr(self, name)
            check(self, name, is_number(value, (int, float)) and 0 < value < math.inf,
                  "a positive number")

    def to_dict(self) -> dict[str, Any]:
        """The kind and all numbers by name, as JSON holds them."""
        return {"kind": self.KIND, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CoordinatewiseLSTMConfig:
        """The config that `to_dict` wrote; a number that is left out is the paper's.

        Raises:
            ValueError: if a name is none of its numbers, or a value is not allowed.
        """
        numbers = {name: value for name, value in values.items() if name != "kind"}
        unknown = sorted(set(numbers) - set(cls.__dataclass_fields__))
        if values.get("kind") != cls.KIND or unknown:
            raise ValueError(
                f"`config` must be of kind {cls.KIND!r} with its own numbers only, got {values!r}.")
        return cls(**numbers)


@keras.saving.register_keras_serializable(package="hrnn_opt")
class CoordinatewiseLSTM(Network):
    """Two LSTM layers read each parameter's gradient and write its update: 5,141 numbers.

    Args:
        config: its sizes.
        seed: of the start values, the same on every backend. The read-out starts at 0.
    """

    def __init__(
        self, config: CoordinatewiseLSTMConfig | None = None, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(config or CoordinatewiseLSTMConfig(), **kwargs)
        rng = np.random.default_rng(seed)

        def normal(shape, dtype=None):
            del dtype
            return (rng.normal(size=shape) / math.sqrt(shape[0])).astype("float32")

        units = self.config.units
        # Input, forget and output gates, and the proposal.
        forget = np.repeat([0.0, _FORGET_BIAS, 0.0, 0.0], units).astype("float32")
        self.lstms = []
        for k in range(self.config.layers):
            inputs = 2 if k == 0 else units
            self.lstms.append((
                self.add_weight(
                    name=f"lstm_{k}_kernel", shape=(inputs + units, 4 * units), initializer=normal),
                self.add_weight(
                    name=f"lstm_{k}_bias", shape=(4 * units,),
                    initializer=lambda shape, dtype=None: forget)))
        self.read_out = self.add_weight(name="read_out", shape=(units, 1), initializer="zeros")
        self.read_out_bias = self.add_weight(
            name="read_out_bias", shape=(1,), initializer="zeros")
        self.built = True

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> CoordinatewiseLSTM:
        return cls(CoordinatewiseLSTMConfig.from_dict(config["config"]), name=config.get("name"))

    def init_state(
        self, layout: Layout, log_learning_rate: Any, parameters: Any | None = None
    ) -> State:
        """Zeros; of the learning rates only the shape counts."""
        size = 2 * self.config.layers * self.config.units
        return State(hidden=ops.zeros((size, *log_learning_rate.shape)))

    def step(
        self, layout: Layout, state: State, gradient: Any, active: np.ndarray | None = None,
        taken: Any | None = None, offset: Any | None = None,
    ) -> tuple[State, Step]:
        """One step: theta <- theta + output_scale * read-out (equation 3)."""
        units = self.config.units
        old = ops.cast(state.hidden, "float32")
        x, hidden = self._preprocessed(gradient), []
        for k, (kernel, bias) in enumerate(self.lstms):
            before = old[2 * k * units : 2 * (k + 1) * units]
            gates = affine(kernel, ops.concatenate([x, before[:units]]), bias)
            enter, keep, leave = (
                ops.sigmoid(gates[i * units : (i + 1) * units]) for i in range(3))
            cell = keep * before[units:] + enter * ops.tanh(gates[3 * units :])
            x = leave * ops.tanh(cell)
            hidden += [x, cell]
        update = -self.config.output_scale * affine(self.read_out, x, self.read_out_bias)[0]
        new_state = state._replace(hidden=ops.concatenate(hidden))
        if active is not None:
            new_state, update, _ = self._keep_inactive(
                layout, active, state, new_state, update, None)
        if taken is not None:
            new_state = self._keep_unless(taken, state, new_state)
        return new_state, Step(update, None)

    def _preprocessed(self, gradient: Any) -> Any:
        """(2, ..., B, L): (log|g| / p, sign g) from |g| = exp(-p) on, (-1, exp(p) g) below
        (appendix A)."""
        p = self.config.log_range
        size = ops.abs(gradient)
        large = size >= math.exp(-p)
        logs = ops.log(ops.maximum(size, math.exp(-p))) / p
        return ops.stack([
            ops.where(large, logs, -1.0),
            ops.where(large, ops.sign(gradient),
                      math.exp(p) * ops.clip(gradient, -math.exp(-p), math.exp(-p)))])
