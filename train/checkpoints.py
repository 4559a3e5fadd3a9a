"""Checkpoints of a training run: all arrays of a pytree in one safetensors file."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from hrnn_opt.files.atomic import write_atomic
from train.config import TrainConfig

_PREFIX = "checkpoint-"


class DamagedError(ValueError):
    """A checkpoint file that cannot be read whole."""


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def _named(tree: Any) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def save(folder: Path, step: int, tree: Any, config: TrainConfig, keep: int = 3) -> Path:
    """Write the checkpoint of a step; only the last `keep` stay."""
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in _named(tree).items()}
    metadata = {"config": config.to_json(), "sha256": _digest(arrays)}
    content = safetensors.numpy.save(arrays, metadata=metadata)
    path = folder / f"{_PREFIX}{step:08d}.safetensors"
    write_atomic(path, content)
    for old in _paths(folder)[:-keep]:
        old.unlink()
    return path


def _paths(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_PREFIX}*.safetensors"))


def restore(
    folder: Path, like: Callable[[set[str]], Any], config: TrainConfig
) -> Any | None:
    """The newest checkpoint that can be read; None if there is none.

    A damaged one is passed over with a warning.

    Args:
        folder: where the checkpoints are.
        like: the pytree of shapes that a checkpoint with arrays of the given names has.
        config: that the checkpoint must be of.

    Raises:
        ValueError: if a checkpoint is of another configuration, by name of the field that differs.
    """
    for path in reversed(_paths(folder)):
        try:
            return _restore(path, like, config)
        except DamagedError as error:
            warnings.warn(f"{path.name} is damaged ({error}); trying the one before.", stacklevel=2)
    return None


def _restore(path: Path, like: Callable[[set[str]], Any], config: TrainConfig) -> Any:
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            text, digest = metadata["config"], metadata["sha256"]
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise DamagedError(str(error)) from None
    if _digest(arrays) != digest:
        raise DamagedError("its numbers are not those that were written")
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"its configuration is no JSON: {error}") from None
    theirs = TrainConfig.from_json(text)
    for field in TrainConfig.__dataclass_fields__:
        if getattr(theirs, field) != getattr(config, field):
            raise ValueError(
                f"the checkpoint {path.name} is of another configuration: `{field}` is "
                f"{getattr(theirs, field)!r} there and {getattr(config, field)!r} here.")
    tree = like(set(arrays))
    expected = _named(tree)
    if set(arrays) != set(expected):
        raise DamagedError("its arrays are not those of this configuration")
    leaves = []
    for name, leaf in expected.items():
        if arrays[name].shape != leaf.shape or arrays[name].dtype != leaf.dtype:
            raise DamagedError(f"{name} has another shape or dtype")
        # A copy that the compiled step may overwrite.
        leaves.append(jax.numpy.array(arrays[name]))
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(tree), leaves)
