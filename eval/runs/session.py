"""What a network in training is to `eval.runs.runner`, on any backend."""

from __future__ import annotations

from typing import Protocol

import numpy as np

EVALUATION_BATCH = 500


class Session(Protocol):
    """A network in training."""

    def step(self) -> None:
        """Train on the next batch."""

    def loss(self) -> float:
        """The mean loss over the last batch, before its step."""

    def evaluate(self, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
        """Mean loss and accuracy over a whole set, of the values that training would end with.

        The model's variables may hold another location between steps (lookahead) or not yet the one
        to keep (a moving average); Keras asks the optimizer for the latter when training ends.
        """

    def finish(self) -> None:
        """Leave those values in the model."""
