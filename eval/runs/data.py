"""What networks are evaluated on."""

from __future__ import annotations

import dataclasses
import functools
import hashlib

import numpy as np


@dataclasses.dataclass(frozen=True)
class Data:
    """Images, float32 in [0, 1] of shape (examples, height, width, channels), and their classes.

    Other inputs and targets will do where a network takes them: texts of shape (examples, length)
    with the characters that come next, or images with themselves. `folder` is where MNIST was read
    from.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    folder: str | None = None

    @functools.cached_property
    def fingerprint(self) -> str:
        """Tells data sets apart, so that a result is never taken for one on other data."""
        content = hashlib.sha256(repr(self.x_train.shape).encode())
        if self.y_train.dtype.kind == "f":
            content.update(self.y_train.tobytes())
        content.update(self.y_train.astype("int32").tobytes())
        return content.hexdigest()[:8]

    def part(self, examples: int) -> Data:
        """The first examples of the training set, and a sixth as many to test on."""
        tests = examples // 6
        return Data(self.x_train[:examples], self.y_train[:examples],
                    self.x_test[:tests], self.y_test[:tests], self.folder)

    def with_itself(self) -> Data:
        """The inputs as targets, for an autoencoder."""
        return Data(self.x_train, self.x_train, self.x_test, self.x_test)


def load(data_dir: str) -> Data:
    """MNIST, or any data set in the same four files.

    Raises:
        ValueError: if a file is missing, or is no such file.
    """
    # Importing the problems loads JAX, which a command on another backend has no use for.
    from problems.mnist import load_mnist

    return Data(*load_mnist(data_dir), folder=data_dir)


def digits() -> Data:
    """Real digits that are at hand without MNIST: scikit-learn's 1,797 images of 8 x 8 pixels,
    enlarged to 28 x 28."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = np.pad(np.kron(x.reshape(-1, 8, 8), np.ones((3, 3))), ((0, 0), (2, 2), (2, 2)))
    x, y = (x[..., None] / 16).astype("float32"), y.astype("int32")
    return Data(x[:1200], y[:1200], x[1200:], y[1200:])


def text(examples: int, length: int = 32) -> Data:
    """Pieces of the manual that Python's own `help` shows, each character with the next one.

    Args:
        examples: for training; a sixth as many more to test on.
        length: characters of a piece.
    """
    from pydoc_data.topics import topics

    manual = "\n".join(topics[name] for name in sorted(topics))
    total = examples + examples // 6
    codes = np.frombuffer(manual.encode("ascii", "replace"), "uint8").astype("int32")
    if len(codes) <= total * length:
        raise ValueError(f"`examples` must be at most {len(codes) // length * 6 // 7}, "
                         f"got {examples}.")
    x, y = (codes[start : start + total * length].reshape(total, length) for start in (0, 1))
    return Data(x[:examples], y[:examples], x[examples:], y[examples:])
