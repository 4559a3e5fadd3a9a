"""Learning-rate schedules that need not know when training ends."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="hrnn_opt")
class InverseSquareRootDecay(keras.optimizers.schedules.LearningRateSchedule):
    """`learning_rate / sqrt(1 + step / decay_steps)`.

    Args:
        learning_rate: the first rate, positive.
        decay_steps: steps after which the rate has fallen by the square root of 2, positive.

    Raises:
        ValueError: if one is not positive.
    """

    def __init__(self, learning_rate: float, decay_steps: float) -> None:
        super().__init__()
        for name, value in (("learning_rate", learning_rate), ("decay_steps", decay_steps)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not (
                0 < value < float("inf")
            ):
                raise ValueError(f"`{name}` must be a positive number, got {value!r}.")
        self.learning_rate = learning_rate
        self.decay_steps = decay_steps

    def __call__(self, step: Any) -> Any:
        return self.learning_rate * ops.rsqrt(1.0 + ops.cast(step, "float32") / self.decay_steps)

    def get_config(self) -> dict[str, Any]:
        return {"learning_rate": self.learning_rate, "decay_steps": self.decay_steps}
