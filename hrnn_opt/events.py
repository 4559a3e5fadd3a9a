"""Scalars and histograms as TensorBoard reads them, written without TensorFlow."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.summary.writer.record_writer import RecordWriter

# TensorBoard's own choice, `tensorboard.plugins.histogram.summary_v2.DEFAULT_BUCKET_COUNT`.
_BUCKETS = 30


class EventWriter:
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

    def write(
        self, step: int, scalars: Mapping[str, float],
        histograms: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Add the named scalars and histograms of a step.

        Args:
            step: its number.
            scalars: a value for each name.
            histograms: numbers of any shape for each name; those that are not finite are left out,
                and so is a histogram with no other.
        """
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        for tag, numbers in (histograms or {}).items():
            finite = np.asarray(numbers, "float64")[np.isfinite(numbers)]
            if finite.size:
                values.append(Summary.Value(tag=tag, histo=_histogram(finite)))
        self._write(Event(step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._records.flush()


def _histogram(numbers: np.ndarray) -> HistogramProto:
    """Counts of (N,) numbers in buckets of equal width from the least to the greatest."""
    counts, edges = np.histogram(numbers, _BUCKETS)
    return HistogramProto(
        min=numbers.min(), max=numbers.max(), num=numbers.size, sum=numbers.sum(),
        sum_squares=np.sum(numbers**2), bucket_limit=edges[1:], bucket=counts)
