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
