"""MNIST from its IDX files. For evaluation only: no training suite uses it."""

import dataclasses
import gzip
import math
import pathlib
import struct
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from problems.datasets import Data, Dataset
from problems.problem import Array, place
from problems.registry import register

_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
# Bytes of an array: twice the largest set in this format that we know of.
_LARGEST = 2**30


def load_mnist(
    data_dir: str | pathlib.Path,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Reads the four IDX files of MNIST or of a set of its format, gzipped or not.

    Args:
      data_dir: the folder with train-images-idx3-ubyte, train-labels-idx1-ubyte and the same of
        t10k, each with or without `.gz`.

    Returns:
      x_train (n, height, width, 1) float32 in [0, 1], y_train (n,) int32, x_test, y_test.

    Raises:
      ValueError: a file is missing, is no IDX file of the right shape, or disagrees with another.
    """
    arrays = {}
    for name, file in _FILES.items():
        dimensions = 3 if name.startswith("x") else 1
        arrays[name] = _read_idx(pathlib.Path(data_dir), file, dimensions)
    for part in ("train", "test"):
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if len(images) != len(labels):
            raise ValueError(
                f"{data_dir}: {_FILES[f'x_{part}']} has {len(images)} images, but "
                f"{_FILES[f'y_{part}']} has {len(labels)} labels."
            )
        arrays[f"x_{part}"] = images[..., None].astype(np.float32) / 255
        arrays[f"y_{part}"] = labels.astype(np.int32)
    return arrays["x_train"], arrays["y_train"], arrays["x_test"], arrays["y_test"]


def _read_idx(folder: pathlib.Path, file: str, dimensions: int) -> np.ndarray:
    path = next((p for p in (folder / file, folder / f"{file}.gz") if p.is_file()), None)
    if path is None:
        raise ValueError(f"{folder}: the MNIST file {file} (or {file}.gz) is missing.")
    with path.open("rb") as file:
        opened = gzip.open if file.read(2) == b"\x1f\x8b" else open
    try:
        with opened(path, "rb") as stream:
            # Header: two zero bytes, type (8 = unsigned byte), number of dimensions, the sizes.
            header = struct.unpack(f">4B{dimensions}I", stream.read(4 + 4 * dimensions))
            size = math.prod(header[4:])
            # No more is unpacked than the header asks for, and one byte to see whether it is all.
            content = stream.read(size + 1) if size <= _LARGEST else b""
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise ValueError(f"{path}: cannot be read as an IDX file ({error}).") from error
    if header[:4] != (0, 0, 8, dimensions) or len(content) != size:
        raise ValueError(
            f"{path}: is no IDX file of at most {_LARGEST} bytes with {dimensions} dimension"
            f"{'s' if dimensions > 1 else ''}, or is cut short."
        )
    return np.frombuffer(content, np.uint8).reshape(header[4:])


@register
@dataclasses.dataclass(frozen=True, repr=False)
class MNIST(Dataset):
    """The first `samples` training images of MNIST, flat, and their labels; nothing is random.

    Draw instances outside of `jax.jit`, into whose program the images would be compiled.

    Args:
      data_dir: the folder that `load_mnist` reads; needed once an instance is drawn.
    """

    data_dir: str = place()

    def check(self) -> None:
        super().check()
        self.require(isinstance(self.data_dir, str), "data_dir", "a path as a string")

    def draw(
        self, key: Array, numbers: dict[str, Any], samples: int, features: int, classes: int
    ) -> Data:
        if not self.data_dir:
            raise ValueError(
                "MNIST: data_dir must name the folder with the IDX files; "
                'ask for suite("test", data_dir=...) or MNIST(data_dir=...).'
            )
        with jax.ensure_compile_time_eval():
            images, labels, _, _ = load_mnist(self.data_dir)
        if len(images) < samples or images[0].size != features:
            raise ValueError(
                f"MNIST: {self.data_dir} has {len(images)} images of {images[0].size} pixels; "
                f"the problem asks for {samples} of {features}."
            )
        return (
            jnp.asarray(images[:samples].reshape(samples, features)),
            jnp.asarray(labels[:samples]),
        )
