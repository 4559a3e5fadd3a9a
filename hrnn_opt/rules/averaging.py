"""Schedule-free averaging (Defazio et al. 2024): gradients are taken near the iterates' average."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from hrnn_opt import iterates
from hrnn_opt.checks import Config, check, is_number
from hrnn_opt.interface import Field
from hrnn_opt.registry import register
from hrnn_opt.rules.chain import Rule


@dataclasses.dataclass(frozen=True)
class AveragingConfig(Config):
    """Switches of the rule.

    Args:
        share: of the running average in the location at which gradients are taken; at least 0 and
            below 1.

    Raises:
        ValueError: if it is not that.
    """

    share: float = 0.9

    NAME: ClassVar[str] = "averaging"

    def __post_init__(self) -> None:
        check(self, "share", is_number(self.share) and 0 <= self.share < 1,
              "a number of at least 0 and below 1")


@register
class Averaging(Rule):
    """Steps move a fast iterate; an iterate counts in the average in proportion to its number.

    One that was made at a learning rate of 0 is where the one before it is, and has no number.
    The average's noise falls without the learning rate falling. What the scheme does with a step is
    in `iterates.Averaging`.
    """

    Config = AveragingConfig

    @property
    def own_fields(self):
        return {"averaging_steps": Field("model", wide=True, of_moves=True)}

    @property
    def iterates(self):
        return iterates.Averaging(self.config.share)

    def __init__(self, inner, config=None, **options):
        if inner.iterates.keeps_offset:
            raise ValueError(
                "`inner` must take gradients at its parameters, where averaging is around it.")
        super().__init__(inner, config, **options)

    def around(self, layout, state, seen, inner, active):
        steps = state["averaging_steps"] + 1.0
        return {"averaging_steps": steps}, inner(seen)._replace(weight=2.0 / (steps + 1.0))
