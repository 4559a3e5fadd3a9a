"""The learned optimizer before this one: an LSTM for each parameter, which knows of no other.

Andrychowicz et al., "Learning to learn by gradient descent by gradient descent", NIPS 2016
(https://arxiv.org/abs/1606.04474). Dimension letters are those of `interface.py`; U units.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from hrnn_opt.checks import Config, check, is_number
from hrnn_opt.interface import Field, LearnedOptimizer, Seen, State, Step
from hrnn_opt.networks.functions import affine
from hrnn_opt.places.layout import Layout
from hrnn_opt.registry import register

# Keeps most of the cell at the start.
_FORGET_BIAS = 1.0


@dataclasses.dataclass(frozen=True)
class CoordinatewiseLSTMConfig(Config):
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

    NAME: ClassVar[str] = "coordinatewise_lstm"

    def __post_init__(self) -> None:
        for name, most in (("layers", 8), ("units", 1024)):
            value = getattr(self, name)
            check(self, name, is_number(value, int) and 1 <= value <= most,
                  f"an integer from 1 to {most}")
        for name in ("log_range", "output_scale"):
            value = getattr(self, name)
            check(self, name, is_number(value, (int, float)) and 0 < value < math.inf,
                  "a positive number")


@register
@keras.saving.register_keras_serializable(package="hrnn_opt")
class CoordinatewiseLSTM(LearnedOptimizer):
    """Two LSTM layers read each parameter's gradient and write its update.

    Args:
        config: its sizes.
        seed: of the start values, the same on every backend. The read-out starts at 0.
    """

    Config = CoordinatewiseLSTMConfig
    # The read-out of the hidden state is not 0 where the gradient is.
    still = False

    def __init__(
        self, config: CoordinatewiseLSTMConfig | None = None, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(config, **kwargs)
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

    @property
    def fields(self) -> dict[str, Field]:
        return {"hidden": Field(leading=(2 * self.config.layers * self.config.units,))}

    def advance(
        self, layout: Layout, state: State, seen: Seen, active: Any | None
    ) -> tuple[State, Step]:
        """One step: theta <- theta + output_scale * read-out (equation 3)."""
        units = self.config.units
        old = ops.cast(state["hidden"], "float32")
        x, hidden = self._preprocessed(seen.gradient), []
        for k, (kernel, bias) in enumerate(self.lstms):
            before = old[2 * k * units : 2 * (k + 1) * units]
            gates = affine(kernel, ops.concatenate([x, before[:units]]), bias)
            enter, keep, leave = (
                ops.sigmoid(gates[i * units : (i + 1) * units]) for i in range(3))
            cell = keep * before[units:] + enter * ops.tanh(gates[3 * units :])
            x = leave * ops.tanh(cell)
            hidden += [x, cell]
        update = -self.config.output_scale * affine(self.read_out, x, self.read_out_bias)[0]
        return {"hidden": ops.concatenate(hidden)}, Step(update)

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
