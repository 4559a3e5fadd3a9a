"""The images that networks are evaluated on."""

from __future__ import annotations

import dataclasses
import functools
import hashlib

import numpy as np


@dataclasses.dataclass(frozen=True)
class Data:
    """Images, float32 in [0, 1] of shape (examples, height, width, channels), and their classes."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    @functools.cached_property
    def fingerprint(self) -> str:
        """Tells data sets apart, so that a result is never taken for one on other data."""
        content = hashlib.sha256(repr(self.x_train.shape).encode())
        content.update(self.y_train.astype("int32").tobytes())
        return content.hexdigest()[:8]


def load(data_dir: str) -> Data:
    """MNIST, or any data set in the same four files.

    Raises:
        ValueError: if a file is missing, or is no such file.
    """
    # Importing the problems loads JAX, which a command on another backend has no use for.
    from problems.mnist import load_mnist

    return Data(*load_mnist(data_dir))
