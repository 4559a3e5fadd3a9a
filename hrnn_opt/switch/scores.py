"""How candidates are compared, and which is chosen: functions of a few numbers a step.

Dimension letters: K candidates, U units that choose for themselves: the model (U = 1), or tensors.

Equations (arXiv 2512.06370, sections 2 to 4; what is ours is marked so). With g the gradient, u_j
what candidate j would subtract from the parameters, and sums over the numbers of a unit:

| score | J_j | compares |
|---|---|---|
| `"power"` | g . u_j | how fast the loss falls, at the rates that the user gave: the greedy rule |
| `"cosine"` | g . u_j / (norm(g) norm(u_j)) | directions only |
| `"filter"` | g . u_j times the factor of `filter_factor` | momenta, as filters of one norm |
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

SCORES = ("power", "cosine", "filter")
# Instead of minus infinity, which times 0 is no number.
LOWEST = -3e38


def filter_factor(optimizer: keras.optimizers.Optimizer, step: Any) -> Any:
    """What makes a momentum's update that of a filter of norm 1.

    SGD's buffer, the sum of beta^k g, has the norm 1 / sqrt(1 - beta^2) (section 3). Adam's average
    is 1 - beta of that sum, over 1 - beta^t: both are undone first, since with the norm of an
    average the smallest beta would win wherever gradients agree (ours; the authors' convention for
    Adam is not known).

    Args:
        optimizer: an SGD or Adam of Keras.
        step: () how many steps it has made, at least 1.

    Returns:
        (), or a float.

    Raises:
        ValueError: if the optimizer is of another kind.
    """
    if isinstance(optimizer, keras.optimizers.SGD):
        return (1 - optimizer.momentum**2) ** 0.5
    if isinstance(optimizer, keras.optimizers.Adam):
        beta = optimizer.beta_1
        corrected = 1 - ops.power(ops.cast(beta, "float32"), ops.cast(step, "float32"))
        return corrected * ((1 - beta**2) ** 0.5 / (1 - beta))
    raise ValueError(
        "`candidates` must be of SGD or of Adam for the score 'filter', got "
        f"{type(optimizer).__name__}.")


def scores(kind: str, products: Any, squares: Any, gradient_squares: Any, factors: Any) -> Any:
    """Of each candidate, in each unit.

    Args:
        kind: one of `SCORES`.
        products: (K, U) g . u_j.
        squares: (K, U) of the updates' norms.
        gradient_squares: (U,) of the gradient's norm.
        factors: (K, 1) those of `filter_factor`.

    Returns:
        (K, U); `LOWEST` where it would not be finite.
    """
    if kind == "cosine":
        products = products / ops.sqrt(ops.maximum(squares * gradient_squares, 1e-37))
    elif kind == "filter":
        products = products * factors
    return ops.where(ops.isfinite(products), products, LOWEST)


def at(choice: Any, values: Any) -> Any:
    """(U,) the (K, U) values of the candidates that are chosen, (U,)."""
    chosen = one_hot(choice, values.shape[0])
    return ops.sum(ops.where(chosen, values, ops.zeros_like(values)), axis=0)


def one_hot(choice: Any, candidates: int) -> Any:
    """(K, U) whether a candidate is the chosen one."""
    return ops.equal(ops.expand_dims(ops.arange(candidates, dtype="int32"), 1), choice)


def choose(scores: Any, choice: Any, eligible: Any, may_change: Any, margin: float) -> Any:
    """The candidate with the highest score, with hysteresis.

    A unit whose present choice is not eligible takes the best of the others at once. Where no
    candidate is eligible, the present choice stays.

    Args:
        scores: (K, U) smoothed.
        choice: (U,) the present one.
        eligible: (K, U) which may be chosen.
        may_change: (U,) whether a better one may take the place of an eligible one.
        margin: by how much it must be better, as a share of the present one's score.

    Returns:
        (U,) the new choice. Of equal ones the present one stays, else the first is taken.
    """
    allowed = ops.where(eligible, scores, LOWEST)
    best = ops.cast(ops.argmax(allowed, axis=0), "int32")
    # With scores of `LOWEST`, the best need not be eligible.
    first = ops.cast(ops.argmax(ops.cast(eligible, "int32"), axis=0), "int32")
    best = ops.where(ops.greater(at(best, ops.cast(eligible, "int32")), 0), best, first)
    now = at(choice, scores)
    better = ops.logical_and(may_change, at(best, allowed) > now + margin * ops.abs(now))
    lost = ops.equal(at(choice, ops.cast(eligible, "int32")), 0)
    some = ops.any(eligible, axis=0)
    return ops.where(ops.logical_and(some, ops.logical_or(better, lost)), best, choice)


def has_failed(falls: Any, rises: Any) -> Any:
    """Whether a candidate's steps have made the loss rise (ours).

    By the trapezoid rule a step u from a point with gradient g to one with gradient g' lets the
    loss fall by u . (g + g') / 2, exactly where it is quadratic: it has risen where -g' . u is
    larger than g . u. With minibatches this stays rare while training goes well: g . u holds the
    noise of its own gradient, which is positive, and -g' . u does not.

    Args:
        falls: sums of g . u over recent steps, where that is positive.
        rises: sums of -g' . u over the same steps.

    Returns:
        Booleans of the same shape.
    """
    return ops.logical_and(falls > 0, rises > falls)


def share_to_minimum(falls: Any, rises: Any) -> Any:
    """At what share of a candidate's steps that have failed the loss was lowest (ours).

    Where it is quadratic, its slope goes evenly from g . u at the start to -g' . u at the end, and
    is 0 between. A failed step is at least twice as long as that.

    Args:
        falls, rises: as in `has_failed`.

    Returns:
        Positive numbers up to 1 / 2 of the same shape; 1 / 2 where `has_failed` says no: the step
        has led to where nothing is known.
    """
    known = has_failed(falls, rises)
    return ops.where(known, falls / ops.where(known, falls + rises, 1.0), 0.5)


def share_of_power(falls: Any, rises: Any) -> Any:
    """What share of the power g . u is counted: all, where a candidate's steps end on a slope that
    still falls, and less the more it rises there; none where `has_failed` begins (ours).

    Without it, whoever takes steps that are too long is believed again after each step of another.
    The share of g . u by which the loss has fallen would be half of this without noise, but the
    noise in g . u lowers it too, most for candidates without momentum.

    Args:
        falls, rises: as in `has_failed`.

    Returns:
        Numbers from 0 to 1 of the same shape; 1 where nothing is known.
    """
    known = falls > 0
    lost = ops.maximum(rises, 0.0) / ops.where(known, falls, 1.0)
    return ops.where(known, ops.maximum(1.0 - lost, 0.0), 1.0)
