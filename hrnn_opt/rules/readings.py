"""What step control may read of a run: numbers of the whole model that tell what is learned by
heart from what is noise, and early from late. None depends on the gradient's size or sign."""

from __future__ import annotations

from typing import Any, NamedTuple

from keras import ops

# Running means forget a hundredth a step; before a hundred steps, they are plain means.
_NEWEST = 0.01
# Either way, of a reading.
_LARGEST = 2.0
# How far the norm of gradients has fallen, in the metric of the steps; their size beside their mean
# squares; mean and RMS of the cosine; the factor of all steps; and a clock.
READINGS = 6
# What is kept from step to step: means of four, the largest of the first, and how many they are of.
KEPT = 6
_LEAST_SIZE = 1e-12


class Observed(NamedTuple):
    """What there is to observe in a step, (...) each, of all entries of the model.

    Attributes:
        largest: size of the gradient's largest entry, 1 where all are 0.
        squares: sum of the squares of what is left when entries are divided by that, in the metric.
        size: of the gradient beside its running mean squares, about 1 where it is as it was.
        cosine: of the gradient with the way to the average.
    """

    largest: Any
    squares: Any
    size: Any
    cosine: Any


def observe(kept: Any, seen: Observed) -> Any:
    """(6, ...) what is kept after this step.

    Args:
        kept: before it; zeros before the first.
        seen: in this step.
    """
    steps, means = kept[5], kept[:4]
    # The gradient's norm in the metric of the steps.
    log_norm = ops.log(seen.largest) + 0.5 * ops.log(
        ops.where(seen.squares > 0, seen.squares, 1.0))
    log_size = ops.log(ops.clip(seen.size, _LEAST_SIZE, 1.0 / _LEAST_SIZE))
    new = ops.stack([log_norm, log_size, seen.cosine, ops.square(seen.cosine)])
    means = means + ops.maximum(_NEWEST, 1.0 / (steps + 1.0)) * (new - means)
    largest = ops.where(steps > 0, ops.maximum(kept[4], means[0]), means[0])
    return ops.concatenate([means, ops.stack([largest, steps + 1.0])])


def readings(kept: Any, log_step_size: Any) -> Any:
    """(6, ...) numbers of about 1.

    Args:
        kept: what `observe` gave.
        log_step_size: (...) of the factor that is steered.
    """
    log_norm, log_size, cosine, square, largest, steps = ops.unstack(kept, KEPT)
    return ops.clip(
        ops.stack([
            0.25 * (log_norm - largest), 0.25 * log_size, 10.0 * cosine,
            2.0 * ops.sqrt(square + _LEAST_SIZE), 0.25 * log_step_size,
            0.1 * ops.log(1.0 + steps)]),
        -_LARGEST, _LARGEST)
