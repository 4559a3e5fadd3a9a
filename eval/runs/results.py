"""The result of a run, and how it is read."""

from __future__ import annotations

import math
from typing import Any

Result = dict[str, Any]


def final_loss(result: Result) -> float:
    """The final training loss, infinite if the run diverged."""
    return math.inf if result["diverged"] else result["final_training_loss"]


def loss_at(result: Result, step: int) -> float:
    """The training loss after `step` steps, a point of the curve; infinite after divergence."""
    for point, loss in result["curve"]:
        if point == step:
            return loss
    if result["diverged"]:
        return math.inf
    raise ValueError(f"the curve has no point at step {step}.")


def shown(value: float | None, form: str = "#.3g", missing: str = "diverged") -> str:
    """A number of a result as a table shows it; `missing` if it is None or not finite."""
    return format(value, form) if value is not None and math.isfinite(value) else missing
