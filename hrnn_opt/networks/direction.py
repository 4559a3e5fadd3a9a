"""The core of the hand-made rule: the newest gradient over its slow root mean square.

Dimension letters are those of `interface.py`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from hrnn_opt.checks import Config
from hrnn_opt.interface import Field, LearnedOptimizer, Seen, State, Step
from hrnn_opt.networks import accumulators
from hrnn_opt.places.layout import Layout, block_sums
from hrnn_opt.places.sweep import Moved, hold, sweep
from hrnn_opt.registry import register

# Before meta-training. The decays are those that `default` had of old; the shrinkage is that of
# the equivariant network, whose start is this.
START = {"average_logit": -1.0, "scale_logit": 4.6, "log_shrinkage": math.log(1e-4),
         "log_early_shrinkage": math.log(0.1)}


@dataclasses.dataclass(frozen=True)
class DirectionConfig(Config):
    """It has no switches: what it has is among the meta-parameters."""

    NAME: ClassVar[str] = "direction"


@register
@keras.saving.register_keras_serializable(package="hrnn_opt")
class Direction(LearnedOptimizer):
    """d = asinh(a / sqrt(v + kappa(t) V)): an average a of the newest gradients over the root of
    their mean squares v, which are shrunk towards their tensor's mean V.

    a <- b a + (1 - b) g, v <- c v + (1 - c) g^2, with b at most sigmoid(-1) = 0.27 and c at most
    sigmoid(4.6) = 0.99, and kappa(t) = 1e-4 + 0.1 / (1 + t) (see `accumulators.py`). Momentum is
    the business of the averaging around it.

    Args:
        config: has no switches.
        seed: nothing is drawn.
    """

    Config = DirectionConfig

    def __init__(
        self, config: DirectionConfig | None = None, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(config, **kwargs)
        for name, start in START.items():
            setattr(self, name, self.add_weight(
                name=name, shape=(), initializer=keras.initializers.Constant(start)))
        self.built = True

    @property
    def fields(self) -> dict[str, Field]:
        of_tensor = Field("tensor", wide=True)
        return {"average": Field(), "mean_square": Field(), "tensor_steps": of_tensor,
                "tensor_mean_square": of_tensor}

    def step(
        self, layout: Layout, state: State, seen: Seen, active: Any | None = None,
        taken: Any | None = None,
    ) -> tuple[State, Step]:
        """One step; arguments and results as in `LearnedOptimizer.step`."""
        gradient, steps = accumulators.clipped(seen.gradient), state["tensor_steps"]
        decays = accumulators.decay(steps, ops.stack([
            ops.sigmoid(self.average_logit), ops.sigmoid(self.scale_logit)])[
                (...,) + (None,) * len(steps.shape)])
        of_tensor = accumulators.tensor_mean_square(
            layout, state["tensor_mean_square"], gradient, decays[1])
        floor = of_tensor * accumulators.shrinkage(
            steps, self.log_shrinkage, self.log_early_shrinkage)
        moved = sweep(
            self._move, layout, {name: state[name] for name in ("average", "mean_square")},
            (gradient, layout.to_lanes(decays), layout.to_lanes(floor)),
            rows=1, sums=(1,), active=active, taken=taken, light=True)
        step = Step(
            moved.rows[0], squares=moved.sums[0][0],
            metric=ops.cast(moved.state["mean_square"], "float32"))
        upper = {"tensor_steps": steps + 1.0, "tensor_mean_square": of_tensor}
        return self.settled(layout, state, upper, step, active, taken, held=moved.state)

    def _move(self, state: State, given: list[Any], used_lanes: Any, moves: Any | None) -> Moved:
        """What is kept of each parameter, of all blocks or some."""
        gradient, decays, floor = given
        old = state["average"], state["mean_square"]
        average, mean_square = (
            hold(moves, accumulators.running(kept, before, new), before)
            for kept, before, new in zip(
                ops.unstack(decays, 2), old, (gradient, ops.square(gradient))))
        update = accumulators.scaled(average, mean_square, floor)
        return Moved(
            {"average": average, "mean_square": mean_square}, [update],
            [ops.expand_dims(block_sums(ops.square(update)), 0)])

    def describe(self, state, shape):
        return {"log learning rate": np.zeros(state["average"].shape, "float32")}
