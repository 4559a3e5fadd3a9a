"""Scalars and histograms as TensorBoard reads them, written without TensorFlow."""

from __future__ import annotations

import functools
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary

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
        content = event.SerializeToString()
        length = struct.pack("<Q", len(content))
        self._file.write(b"".join([length, _masked(length), content, _masked(content)]))
        self._file.flush()


def _histogram(numbers: np.ndarray) -> HistogramProto:
    """Counts of (N,) numbers in buckets of equal width from the least to the greatest."""
    counts, edges = np.histogram(numbers, _BUCKETS)
    return HistogramProto(
        min=numbers.min(), max=numbers.max(), num=numbers.size, sum=numbers.sum(),
        sum_squares=np.sum(numbers**2), bucket_limit=edges[1:], bucket=counts)


def _masked(data: bytes) -> bytes:
    """The checksum in a record: a CRC that data with CRCs in it does not upset."""
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


# Bytes that are checked one after the other; what is longer is cut into as many, side by side.
_ROW = 256


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of at least 4 bytes.

    Byte by byte, as TensorBoard does it in Python, it is a third of the cost of logging.
    """
    rows = -(-len(data) // _ROW)
    # Zeros in front change nothing; the start value of all ones is as well in the first bytes.
    padded = np.zeros(rows * _ROW, "uint8")
    first = padded.size - len(data)
    padded[first:] = np.frombuffer(data, "uint8")
    padded[first : first + 4] ^= 0xFF
    columns = padded.reshape(rows, _ROW).T
    checks = _advance(np.zeros(rows, "uint32"), columns if rows > 1 else columns[first:])
    total, tables = 0, _row_of_zeros()
    for check in checks.tolist():
        # A row further; what is there is the sum of its bytes.
        total = check ^ tables[0][total & 0xFF] ^ tables[1][total >> 8 & 0xFF] ^ (
            tables[2][total >> 16 & 0xFF] ^ tables[3][total >> 24])
    return total ^ 0xFFFFFFFF


def _advance(checks: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(R,) registers after (L, R) more bytes."""
    table = _byte_table()
    for column in columns:
        checks = checks >> 8 ^ table[(checks ^ column) & 0xFF]
    return checks


@functools.cache
def _byte_table() -> np.ndarray:
    """(256,) what each value of a byte adds."""
    table = np.arange(256, dtype="uint32")
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ 0x82F63B78, table >> 1).astype("uint32")
    return table


@functools.cache
def _row_of_zeros() -> list[list[int]]:
    """For each value of each of a register's four bytes, the register a row of zeros later."""
    registers = np.arange(256, dtype="uint32") << np.array([[0], [8], [16], [24]], "uint32")
    zeros = np.zeros((_ROW, 1), "uint8")
    return _advance(registers.reshape(-1), zeros).reshape(4, 256).tolist()
