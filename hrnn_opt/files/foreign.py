"""Files that the originals' own programs wrote."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hrnn_opt.files.atomic import read_npz
from hrnn_opt.files.weights import LARGEST_FILE, Pretrained, shapes_of
from hrnn_opt.interface import NetworkConfig
from hrnn_opt.networks.hrnn import released
from hrnn_opt.registry import kinds


def read_released(path: str | os.PathLike[str]) -> Pretrained:
    """Weights from a file with the variables of Wichrowska et al.'s released program.

    Args:
        path: of a TensorFlow checkpoint (what comes before `.index`; needs TensorFlow), or of an
            .npz file. Other variables in it, such as the state of their meta-optimizer, are left
            out.

    Raises:
        ValueError: if it cannot be read, or as `from_released`.
        ImportError: without TensorFlow, at a checkpoint.
    """
    path = Path(path)
    try:
        if path.suffix == ".npz":
            return from_released(read_npz(path, LARGEST_FILE))
        return from_released(_checkpoint(path))
    except ValueError as error:
        raise ValueError(f"`path` {path.name!r}: {error}") from None


def from_released(
    arrays: Mapping[str, np.ndarray], lookahead: bool | None = None
) -> Pretrained:
    """Weights from the released program's variables.

    Args:
        arrays, lookahead: as in `networks.hrnn.released.config_of`.

    Raises:
        ValueError: if a variable is missing, ambiguous or of a size that does not fit.
    """
    config = NetworkConfig(released.config_of(arrays, lookahead))
    return Pretrained(config, released.from_released(arrays, shapes_of(config)))


def from_pytree(
    arrays: Mapping[str, np.ndarray], constants: Mapping[str, Any] | None = None
) -> Pretrained:
    """Weights from arrays by the names that their authors' program gives them.

    Args:
        arrays: by the keys of nested dicts, joined by `/`.
        constants: switches of the config that cannot be told from the arrays.

    Raises:
        ValueError: if they are of no kind that is known, or do not fit together.
    """
    for cls in kinds().values():
        found = cls.from_released(arrays, constants or {})
        if found is not None:
            return Pretrained(NetworkConfig(found[0]), found[1])
    raise ValueError(
        "`arrays` must be those of a learned optimizer that is known here, by its authors' names, "
        f"got {sorted(arrays)[:4]!r:.200}.")


def _checkpoint(path: Path) -> dict[str, np.ndarray]:
    if not path.with_name(f"{path.name}.index").is_file():
        raise ValueError(f"there is no checkpoint of this name: no {path.name}.index")
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError(
            "a TensorFlow checkpoint needs TensorFlow: pip install tensorflow-cpu; any machine "
            "that has it can turn one into an .npz file.") from error
    try:
        reader = tf.train.load_checkpoint(str(path))
        shapes = {
            name: shape for name, shape in reader.get_variable_to_shape_map().items()
            if any(released.is_name(name, theirs) for theirs in released.NAMES.values())}
        if 4 * sum(int(np.prod(shape)) for shape in shapes.values()) > LARGEST_FILE:
            raise ValueError(f"its variables have more than {LARGEST_FILE} bytes")
        return {name: reader.get_tensor(name) for name in shapes}
    # All but the first are what TensorFlow makes of some of its own.
    except (tf.errors.OpError, RuntimeError, LookupError, TypeError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"not a TensorFlow checkpoint, or a damaged one ({reason})") from None
