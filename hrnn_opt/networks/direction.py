"""The core of the hand-made rule: the newest gradient over its slow root mean square.

Dimension letters are those of `interface.py`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import keras
from keras import ops

from hrnn_opt.checks import Config
from hrnn_opt.interface import Field, LearnedOptimizer, Seen, State, Step
from hrnn_opt.networks.functions import asinh
from hrnn_opt.places.layout import Layout, block_sums
from hrnn_opt.registry import register

# Squares of larger gradients overflow 32-bit floats.
_LARGEST_GRADIENT = 1e18
# As in the hierarchical RNN: gradients far below the root of it are not scaled up to 1.
_MEAN_SQUARE_FLOOR = 1e-12
_EPSILON = 1e-16


@dataclasses.dataclass(frozen=True)
class DirectionConfig(Config):
    """It has no switches: what it has is among the meta-parameters."""

    NAME: ClassVar[str] = "direction"


@register
@keras.saving.register_keras_serializable(package="hrnn_opt")
class Direction(LearnedOptimizer):
    """d = asinh(a / sqrt(v)), of an average a of the newest gradients and their mean square v.

    a <- b a + (1 - b) g, v <- c v + (1 - c) (a^2 + 1e-12), with b = sigmoid(-1) = 0.27 and
    c = sigmoid(4.6) = 0.99; both begin with the first gradient. Momentum is the business of the
    averaging around it. The same as the hierarchical RNN's shortcut from its fastest average.

    Args:
        config: has no switches.
        seed: nothing is drawn.
    """

    Config = DirectionConfig

    def __init__(
        self, config: DirectionConfig | None = None, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(config, **kwargs)
        for name, start in (("average_logit", -1.0), ("scale_logit", 4.6)):
            setattr(self, name, self.add_weight(
                name=name, shape=(), initializer=keras.initializers.Constant(start)))
        self.built = True

    @property
    def fields(self) -> dict[str, Field]:
        return {
            "average": Field(), "mean_square": Field(), "tensor_steps": Field("tensor", wide=True)}

    def advance(
        self, layout: Layout, state: State, seen: Seen, active: Any | None
    ) -> tuple[State, Step]:
        gradient = ops.clip(seen.gradient, -_LARGEST_GRADIENT, _LARGEST_GRADIENT)
        later = layout.to_lanes(ops.cast(state["tensor_steps"] > 0, "float32"))
        b, c = later * ops.sigmoid(self.average_logit), later * ops.sigmoid(self.scale_logit)
        average = b * ops.cast(state["average"], "float32") + (1.0 - b) * gradient
        mean_square = c * ops.cast(state["mean_square"], "float32") + (1.0 - c) * (
            ops.square(average) + _MEAN_SQUARE_FLOOR)
        update = asinh(average * ops.rsqrt(mean_square + _EPSILON))
        after = {"average": average, "mean_square": mean_square,
                 "tensor_steps": state["tensor_steps"] + 1.0}
        return after, Step(
            update, squares=block_sums(ops.square(update), layout.used_lanes),
            metric=mean_square - _MEAN_SQUARE_FLOOR)

    def describe(self, state, shape):
        return {"log learning rate": 0.0 * state["mean_square"]}

