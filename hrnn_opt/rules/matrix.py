"""Which matrix a tensor is: what its units read by the units."""

from __future__ import annotations

import math
from collections.abc import Sequence


def matrix_of(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a tensor of at least two axes.

    Rows are all axes but the last, as of a convolution's kernel. Kernels of three axes may be
    attention's, (width, heads, size) on the way in and (heads, size, width) on the way out: of the
    two cuts it is the one that leaves the squarer matrix, of two alike the first.
    """
    first, last = (shape[0], math.prod(shape[1:])), (math.prod(shape[:-1]), shape[-1])
    if len(shape) != 3:
        return last
    return min(first, last, key=lambda matrix: max(matrix) / max(1, min(matrix)))
