"""Arrays that the originals' own programs wrote, by names of ours."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def renamed(arrays: Mapping[str, np.ndarray], names: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The arrays by our names, in 32 bits.

    Args:
        arrays: by theirs.
        names: by ours, theirs.

    Raises:
        ValueError: if one is missing, or there is one more.
    """
    differ = sorted(set(arrays) ^ set(names.values()))
    if differ:
        raise ValueError(f"`arrays` must be those of one optimizer; {differ[:4]} are missing or "
                         "unknown.")
    return {ours: np.asarray(arrays[theirs], "float32") for ours, theirs in names.items()}


# Sizes of the groups in which the first layer of their networks is stored, and of all of them.
GROUPS = (1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3)
BANK_INPUTS = sum(GROUPS)
_BANK = "ff_mod_stack/~/"


def bank_names(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Their names of a network, or a bank of them, by ours; those of the parts of the first kernel
    are theirs."""
    layers = 1 + sum(
        name.startswith(f"{_BANK}w") and "__" not in name for name in arrays)
    names = {f"{_BANK}w0__{i}": f"{_BANK}w0__{i}" for i in range(len(GROUPS))}
    for i in range(layers):
        names[f"bias_{i}"] = f"{_BANK}b{i}"
        if i:
            names[f"kernel_{i}"] = f"{_BANK}w{i}"
    return names


def joined(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays by our names, with the parts of the first kernel joined."""
    # By number: as texts, 10 comes before 2.
    parts = [arrays.pop(f"{_BANK}w0__{i}") for i in range(len(GROUPS))]
    sizes = tuple(part.shape[-2] if part.ndim > 1 else 0 for part in parts)
    if sizes != GROUPS:
        raise ValueError(f"`arrays`: {_BANK}w0__0 and so on must have {GROUPS} rows, got {sizes}.")
    return {**arrays, "kernel_0": np.concatenate(parts, axis=-2)}


def bank(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A network of 30 inputs, or a bank of them, by our names: `kernel_0`, `bias_0` and so on."""
    return joined(renamed(arrays, bank_names(arrays)))
