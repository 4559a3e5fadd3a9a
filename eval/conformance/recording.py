"""Recordings of the authors' released programs: files of arrays, checked when asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hrnn_opt.files.atomic import read_npz

# Bytes of a file's arrays.
LARGEST = 2**31


class FormatError(ValueError):
    """A file that is not in the format."""


def read(path: str) -> dict[str, np.ndarray]:
    """The arrays of a file, by key.

    Raises:
        FormatError: if there is none, or it is no archive of arrays.
    """
    if not Path(path).is_file():
        raise FormatError("is no file" if Path(path).exists() else "no such file")
    try:
        return read_npz(path, LARGEST)
    except ValueError as error:
        raise FormatError(error) from None


class Recording:
    """A trajectory's arrays.

    Args:
        arrays: by key.

    Attributes:
        tensors, steps: their numbers.
        start: of each tensor.
        meta_parameters: by the released program's names.

    Raises:
        FormatError: here and below, if a key is missing or does not fit.
    """

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self._arrays = arrays
        self.tensors = self.count("n_tensors")
        self.steps = self.count("T")
        self.start = [self.get(f"param0/{i}") for i in range(self.tensors)]
        self.meta_parameters = {
            key.removeprefix("meta/"): self.get(key) for key in arrays if key.startswith("meta/")}

    def __contains__(self, key: str) -> bool:
        return key in self._arrays

    def get(self, key: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """The array of numbers with this key; with a shape, up to axes of length 1."""
        if key not in self._arrays:
            raise FormatError(f"the key {key!r} is missing")
        array = self._arrays[key]
        if array.dtype.kind not in "fiub":
            raise FormatError(f"{key!r} must hold numbers, got {array.dtype}")
        if shape is None:
            return array
        if array.size != np.prod(shape):
            raise FormatError(f"{key!r} must have shape {shape}, got {array.shape}")
        return array.reshape(shape)

    def number(self, key: str, default: float | None = None) -> float:
        """A single number; the default, if there is one, where the key is missing."""
        if default is not None and key not in self:
            return default
        return float(self.get(key, ()).item())

    def count(self, key: str, least: int = 1, default: int | None = None) -> int:
        """A whole number of at least `least`."""
        count = self.number(key, default)
        if count != int(count) or count < least:
            raise FormatError(f"{key!r} must be a count of at least {least}, got {count}")
        return int(count)
