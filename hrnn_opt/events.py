"""Scalars as TensorBoard reads them, written without TensorFlow."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class ScalarWriter:
    """One event file.

    Args:
        folder: TensorBoard shows each folder as one run.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns() / 1e9:.6f}.{os.getpid()}"
        self._file = open(Path(folder) / name, "wb")  # noqa: SIM115 (closed by `close`)
        self._records = RecordWriter(self._file)
        self._write(Event(file_version="brain.Event:2"))

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Add the value of each named scalar at a step."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._write(Event(step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._records.flush()
