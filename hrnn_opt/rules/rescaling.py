"""The size of a tensor's updates: running RMS, a bound on single ones, and the tensor's width."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import numpy as np
from keras import ops

from hrnn_opt.checks import Config, check, is_number
from hrnn_opt.interface import Field, sized
from hrnn_opt.places.layout import block_sums
from hrnn_opt.registry import register
from hrnn_opt.rules.chain import Rule

# Inputs of a unit at which `width_exponent` changes nothing.
REFERENCE_WIDTH = 256
_EPSILON = 1e-16


@dataclasses.dataclass(frozen=True)
class RescalingConfig(Config):
    """Switches of the rule.

    Args:
        decay: of the running mean square by which a tensor's updates are scaled; at least 0, below
            1. 0 gives every single update unit RMS; above, one may be smaller than the ones before
            it.
        bounded: with `decay`, no single update has an RMS above 1 either: after many small ones, a
            large one is not taken at its size.
        width_exponent: updates of a tensor whose units have n inputs (the product of its axes but
            the last; vectors not counted) are multiplied by (n / 256)^-width_exponent; at least 0,
            below 1.

    Raises:
        ValueError: naming the argument, what came and what is allowed.
    """

    decay: float = 0.99
    bounded: bool = True
    width_exponent: float = 0.5

    NAME: ClassVar[str] = "rescaling"

    def __post_init__(self) -> None:
        for name in ("decay", "width_exponent"):
            value = getattr(self, name)
            check(self, name, is_number(value) and 0 <= value < 1,
                  "a number of at least 0 and below 1")
        check(self, "bounded", isinstance(self.bounded, bool), "True or False")
        check(self, "bounded", self.decay or not self.bounded, "False where `decay` is 0")


def width_factor(shape: tuple[int, ...], exponent: float) -> float:
    """The factor of a tensor's updates by the number n of inputs that its units have, all axes but
    the last: (n / 256)^-exponent, and 1 for vectors.

    Updates of one size move the sum in a unit by more, the more inputs there are to it (Yang et al.
    2021, "Tensor Programs V", where Adam's rate is to fall as 1 / n).
    """
    if len(shape) < 2:
        return 1.0
    return (math.prod(shape[:-1]) / REFERENCE_WIDTH) ** -exponent


@register
class Rescaling(Rule):
    """u <- width factor u / RMS(u), with a running RMS of the tensor, corrected for its start as
    Adam's means are."""

    Config = RescalingConfig

    @property
    def own_fields(self):
        # The running mean square of each tensor's updates, and the sum of the weights in it.
        return {"update_scale": Field("tensor", (2,), wide=True)} if self.config.decay else {}

    def around(self, layout, state, seen, inner, active):
        step, own = inner(seen), {}
        squares = step.squares
        if squares is None:
            squares = block_sums(ops.square(step.update), layout.used_lanes)
        mean_square = layout.mean_of_blocks(squares)
        if self.config.decay:
            decay, newest = self.config.decay, mean_square
            own["update_scale"] = scale = decay * state["update_scale"] + (1.0 - decay) * ops.stack(
                [newest, ops.ones_like(newest)])
            mean_square = scale[0] / scale[1]
            if self.config.bounded:
                mean_square = ops.maximum(mean_square, newest)
        width = np.array([
            width_factor(shape, self.config.width_exponent) for shape in layout.shapes], "float32")
        size = ops.convert_to_tensor(width) * ops.rsqrt(mean_square + _EPSILON)
        if step.size is not None:
            size = size * step.size
        # The squares would no longer be the update's.
        return own, sized(step._replace(size=size, squares=None), layout)

    def describe(self, state, shape):
        found = self.inner.describe(state, shape)
        if "log learning rate" not in found:
            return found
        rates = found["log learning rate"]
        # NaN before the tensor's first gradient.
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.config.decay:
                mean_square = state["update_scale"][0] / state["update_scale"][1]
            else:
                # Not kept: that of directions which are all of one size.
                mean_square = np.mean(np.exp(2.0 * rates))
            width = math.log(width_factor(shape, self.config.width_exponent))
            found["log learning rate"] = rates - 0.5 * np.log(mean_square + _EPSILON) + width
        return found
