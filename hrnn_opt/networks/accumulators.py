"""Running means of gradients that networks share.

Dimension letters are those of `interface.py`.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from hrnn_opt.networks import in_place
from hrnn_opt.networks.functions import asinh
from hrnn_opt.places import backend
from hrnn_opt.places.layout import Layout, block_sums

# Squares of larger gradients overflow 32-bit floats.
LARGEST_GRADIENT = 1e18
# Gradients far below the root of it are not scaled up to 1; that of Adam's customary 1e-8.
EPSILON = 1e-16


def clipped(gradient: Any) -> Any:
    """The gradient with entries that can be squared."""
    return ops.clip(gradient, -LARGEST_GRADIENT, LARGEST_GRADIENT)


def decay(steps: Any, limit: Any) -> Any:
    """The decay of a running mean after so many steps: a mean of all of them at first, that forgets
    by the limit later."""
    return ops.minimum(steps / (steps + 1.0), limit)


def running(kept: Any, old: Any, new: Any) -> Any:
    """kept * old + (1 - kept) * new: a running mean with what is new."""
    if backend.overwrites():
        return in_place.running(kept, old, new)
    return kept * old + (1.0 - kept) * new


def tensor_mean_square(layout: Layout, old: Any, gradient: Any, kept: Any) -> Any:
    """(..., K) the mean over each tensor of running mean squares whose decay its entries share.

    Args:
        layout: of the tensors.
        old: (..., K) that of the step before.
        gradient: (..., B, L), 0 in the padding.
        kept: (..., K) the decay.
    """
    newest = layout.mean_of_blocks(block_sums(ops.square(gradient)))
    return running(kept, old, newest)


def shrinkage(steps: Any, log_late: Any, log_early: Any) -> Any:
    """kappa(t) = exp(log_late) + exp(log_early) / (1 + t): how far a mean square is taken towards
    its tensor's, the more, the fewer gradients it is made of."""
    return ops.exp(log_late) + ops.exp(log_early) / (1.0 + steps)


def scaled(average: Any, mean_square: Any, floor: Any) -> Any:
    """asinh(a / sqrt(v + floor)), odd in the gradient: 0 stays 0."""
    return asinh(average * ops.rsqrt(mean_square + (floor + EPSILON)))
