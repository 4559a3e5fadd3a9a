"""What optimizers that move all variables together do otherwise than Keras's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


class CoupledOptimizer(keras.optimizers.Optimizer):
    """An optimizer whose step is taken for all variables or for none: not where a gradient has a
    number that is not finite."""

    def _clip_gradients(self, grads: Sequence[Any]) -> list[Any]:
        clipped = super()._clip_gradients(grads)
        if not self.clipvalue:
            return clipped
        # Clipping to a value would hide an infinite gradient from the step that must be skipped.
        return [ops.where(ops.isfinite(g), c, g) for g, c in zip(grads, clipped)]

    def _apply_weight_decay(self, variables: Sequence[keras.Variable]) -> None:
        """Nothing here: the step itself decays, the true parameters, and only if it is taken."""
