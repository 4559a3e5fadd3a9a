"""What a greedy switch chooses, for TensorBoard."""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np
from keras import ops

from hrnn_opt.checks import require_count
from hrnn_opt.switch.optimizer import GreedySwitch


class SwitchDynamics(keras.callbacks.Callback):
    """Logs for TensorBoard which candidate of a `GreedySwitch` ran when.

    | quantity | what it is |
    |---|---|
    | `switch share/NAME` | of the steps (and tensors) since the last record, those that it moved |
    | `switch score/NAME` | its smoothed score, a mean over tensors where each chooses for itself |
    | `switch choice/overall` | number of the chosen candidate, counted from 0 |
    | `switch choice/TENSOR` | the same for each tensor that chooses for itself |
    | `switch guard/undone steps`, `switch guard/skipped steps` | so far |

    It needs the `tensorboard` package, not TensorFlow.

    Args:
        log_dir: folder of the event file.
        every: batches from one record to the next.

    Raises:
        ValueError: if `every` is no positive integer; at the beginning of training, if the model's
            optimizer is no `GreedySwitch`.
        ImportError: without the `tensorboard` package.

    Example:

    >>> model.fit(x, y, callbacks=[SwitchDynamics("logs")])
    """

    def __init__(self, log_dir: str | os.PathLike[str], every: int = 100) -> None:
        super().__init__()
        require_count("every", every, 1)
        try:
            from hrnn_opt.training.events import EventWriter
        except ImportError as error:
            raise ImportError(
                "`SwitchDynamics` needs the package `tensorboard`: pip install tensorboard."
            ) from error
        self.log_dir = log_dir
        self.every = every
        self._new_writer = EventWriter

    def _switch(self) -> GreedySwitch:
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        if not isinstance(optimizer, GreedySwitch):
            raise ValueError(
                "`SwitchDynamics` needs a model compiled with GreedySwitch, got "
                f"{type(optimizer).__name__}.")
        return optimizer

    def on_train_begin(self, logs: Any = None) -> None:
        optimizer = self._switch()
        self._writer = self._new_writer(self.log_dir)
        self._batches = int(ops.convert_to_numpy(optimizer._iterations))
        self._at_once = self.model.steps_per_execution
        self._uses = optimizer.uses() if optimizer.built else 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        before = self._batches
        self._batches += self._at_once
        if self._batches // self.every == before // self.every:
            return
        optimizer = self._switch()
        uses = optimizer.uses()
        self._writer.write(self._batches, measure(optimizer, uses - self._uses))
        self._uses = uses

    def on_train_end(self, logs: Any = None) -> None:
        self._writer.close()


def measure(optimizer: GreedySwitch, uses: np.ndarray) -> dict[str, float]:
    """What the switch does now.

    Args:
        optimizer: a switch that is built.
        uses: (K,) or (K, number of variables) steps of each candidate, of those that count.

    Returns:
        Each quantity by its tag.
    """
    count = len(optimizer.candidates)
    uses = np.reshape(uses, (count, -1)).sum(axis=1)
    scores = np.reshape(optimizer.scores(), (count, -1)).mean(axis=1)
    found = {}
    for name, used, score in zip(optimizer.names, uses, scores):
        found[f"switch share/{name}"] = float(used / max(uses.sum(), 1))
        found[f"switch score/{name}"] = float(score)
    choices = [optimizer.names.index(name) for name in optimizer.choices()]
    if optimizer.scope == "model":
        found["switch choice/overall"] = float(choices[0])
    else:
        for variable, choice in zip(optimizer._trainable_variables, choices):
            found[f"switch choice/{variable.path}"] = float(choice)
    for name in ("undone", "skipped"):
        steps = getattr(optimizer, f"{name}_steps")
        found[f"switch guard/{name} steps"] = float(ops.convert_to_numpy(steps))
    return found
