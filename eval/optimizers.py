"""The optimizers that are compared, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras

BASELINES: dict[str, Callable[..., keras.optimizers.Optimizer]] = {
    "adam": keras.optimizers.Adam,
    "rmsprop": keras.optimizers.RMSprop,
    "sgd": partial(keras.optimizers.SGD, momentum=0.9),
}
LEARNED = "hrnn"
OPTIMIZERS = (LEARNED, *BASELINES)
SCHEDULES = ("constant", "cosine")


def build(name: str, *, learning_rate: float | None, schedule: str, steps: int,
          **settings: Any) -> keras.optimizers.Optimizer:
    """A new optimizer.

    Args:
        name: one of `OPTIMIZERS`.
        learning_rate: None leaves the optimizer its own.
        schedule: `"constant"`, or `"cosine"`: the learning rate decays to 0 over `steps`.
        steps: number of training steps.
        settings: further arguments of the optimizer; None leaves it its own.
    """
    if schedule == "cosine":
        if learning_rate is None:
            raise ValueError("the cosine schedule needs a learning rate to decay from.")
        learning_rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    settings = {"learning_rate": learning_rate, **settings}
    settings = {key: value for key, value in settings.items() if value is not None}
    if name == LEARNED:
        from hrnn_opt import HierarchicalLOpt

        return HierarchicalLOpt(**settings)
    return BASELINES[name](**settings)
