"""The sizes of the steps that any optimizer takes, in event files."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

from hrnn_opt.training.dynamics import tag
from hrnn_opt.training.events import EventWriter

UPDATE = "update RMS"


class StepSizes(keras.callbacks.Callback):
    """Logs the RMS of each tensor's updates, of any optimizer, as `LearningRateDynamics` does."""

    def __init__(self, log_dir: str | Path, every: int = 100) -> None:
        super().__init__()
        self.log_dir, self.every, self.batches = log_dir, every, 0

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self.writer = EventWriter(self.log_dir)

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.batches += 1
        if self.batches % self.every == 0:
            self.before = self._values()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if self.batches % self.every == 0:
            self.writer.write(self.batches, {
                tag(UPDATE, path): float(np.sqrt(np.mean(np.square(value - self.before[path]))))
                for path, value in self._values().items()})

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self.writer.close()

    def _values(self) -> dict[str, np.ndarray]:
        return {v.path: np.array(keras.ops.convert_to_numpy(v), "float32")
                for v in self.model.trainable_variables}
