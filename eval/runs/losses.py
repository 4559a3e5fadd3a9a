"""Losses and accuracies of examples, by what their targets are; on every backend."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
from keras import ops


def measures(model: keras.Model) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`example_losses` and `example_accuracies` as the model wants them: by squares where it has an
    attribute `squares` that is true."""
    squares = getattr(model, "squares", False)
    return (partial(example_losses, squares=squares), partial(example_accuracies, squares=squares))


def example_losses(targets: Any, logits: Any, squares: bool = False) -> Any:
    """(B,) the loss of each example, a mean over its positions: the softmax cross entropy where
    targets are whole numbers, (B, ...) for logits of one more axis; the logistic one of each pixel
    where they are pixels in [0, 1]. With `squares`, of what outputs are less targets."""
    if squares:
        losses = ops.square(logits - targets)
    elif _are_classes(targets):
        losses = keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)
    else:
        losses = ops.softplus(logits) - targets * logits
    return _mean_over_positions(losses)


def example_accuracies(targets: Any, logits: Any, squares: bool = False) -> Any:
    """(B,) the share of an example's positions that are right, pixels up to their half. With
    `squares`, 1 less the loss: of targets of variance 1 what is explained."""
    if squares:
        return 1 - example_losses(targets, logits, squares)
    if _are_classes(targets):
        right = ops.equal(ops.cast(ops.argmax(logits, axis=-1), targets.dtype), targets)
    else:
        right = ops.equal(logits > 0, targets > 0.5)
    return _mean_over_positions(ops.cast(right, "float32"))


def _are_classes(targets: Any) -> bool:
    return keras.backend.is_int_dtype(targets.dtype)


def _mean_over_positions(x: Any) -> Any:
    return ops.mean(ops.reshape(x, (x.shape[0], -1)), axis=-1)
