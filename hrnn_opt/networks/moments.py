"""Running moments of gradients as Metz et al. keep them, and what small networks read of them.

Each entry has three momenta and a mean square of its gradients. Mean squares at three more time
scales are factored, as in Adafactor (Shazeer and Stern 2018): of a tensor of two or more axes, the
means over its largest axis, its rows, and over the second largest, its columns, are kept; other
tensors keep all. Equations are those of Metz et al. 2022 (https://arxiv.org/abs/2203.11860) and of
the program that its authors released.

Dimension letters are those of `interface.py`; J time scales, N numbers of all factored moments.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from hrnn_opt.interface import Field, State
from hrnn_opt.networks.functions import affine
from hrnn_opt.places.layout import Layout

TIME_SCALES = 3
# Squares stay in 32 bits below it; of inputs, those that are summed over a tensor.
LARGEST_GRADIENT = 1e18
LARGEST_INPUT = 1e15
# Added to squares that are factored, and the least of what a root divides by there.
_SQUARE_EPSILON = 1e-30
_LEAST = 1e-9
# Added to rows and columns before roots of them are read.
_READ_EPSILON = 1e-8
# A smaller mean square is a constant to meta-gradients, which would leave 32 bits.
_LEAST_DIFFERENTIATED = 1e-20
# Far below the least mean square, to which every step adds the epsilon of squares.
_PADDING = 1e-36


def factored_axes(shape: Sequence[int]) -> tuple[int, int]:
    """(largest, second largest) axis of a tensor of two or more; of equal ones the later is
    larger."""
    order = np.argsort(shape, kind="stable")
    return int(order[-1]), int(order[-2])


class _Group(NamedTuple):
    """Tensors that are factored alike: all of one shape; or all of fewer than two axes, which are
    not factored, one behind the other.

    Attributes:
        members: positions of the tensors.
        shape: of each; () where they are not factored.
        largest, second: axes, counted from the end; 0 where they are not factored.
        rows, columns: shapes of what is kept of each; () where they are not factored.
        place: where the group's numbers lie in the vector, rows first.
    """

    members: tuple[int, ...]
    shape: tuple[int, ...]
    largest: int
    second: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    place: slice


class Factored:
    """Factored mean squares of tensors of these shapes, in one vector: see `factored_of`."""

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        self._shapes = tuple(shapes)
        alike: dict[tuple[int, ...], list[int]] = {}
        for k, shape in enumerate(self._shapes):
            alike.setdefault(shape if len(shape) > 1 else (), []).append(k)
        self._groups: list[_Group] = []
        owners: list[np.ndarray] = []
        end = 0
        for shape, members in alike.items():
            start = end
            largest = second = 0
            rows: tuple[int, ...] = ()
            columns: tuple[int, ...] = ()
            if shape:
                largest, second = (axis - len(shape) for axis in factored_axes(shape))
                rows, columns = (
                    tuple(1 if axis - len(shape) == over else n for axis, n in enumerate(shape))
                    for over in (largest, second))
                owners += [np.repeat(members, math.prod(part)) for part in (rows, columns)]
                end += len(members) * (math.prod(rows) + math.prod(columns))
            else:
                sizes = [math.prod(self._shapes[k]) for k in members]
                owners.append(np.repeat(members, sizes))
                end += sum(sizes)
            self._groups.append(_Group(
                tuple(members), shape, largest, second, rows, columns, slice(start, end)))
        self.owners = np.concatenate(owners).astype("int32")

    def observe(self, old: Any, tensors: Sequence[Any], decays: Any) -> Any:
        """(J, ..., N) the moments with these gradients.

        Args:
            old: (J, ..., N).
            tensors: (..., *shape) the gradient of each tensor.
            decays: (J,), used as they are: what is new counts by 1 less them.
        """
        new = []
        for group in self._groups:
            square = ops.square(self._stacked(group, tensors)) + _SQUARE_EPSILON
            if not group.shape:
                new.append(square)
                continue
            models = tuple(square.shape)[: -len(group.shape) - 1]
            new += [
                ops.reshape(ops.mean(square, axis=axis), (*models, -1))
                for axis in (group.largest, group.second)]
        newest = ops.concatenate(new, axis=-1)
        decays = ops.reshape(ops.convert_to_tensor(decays), (-1,) + (1,) * len(newest.shape))
        return decays * old + (1.0 - decays) * newest

    def spread(self, layout: Layout, moments: Any) -> tuple[Any, ...]:
        """What there is to read of the moments at every parameter, (J, ..., B, L) each: rows,
        columns, and means of the rows that a column belongs to. Where tensors are not factored,
        these are the mean squares, the mean squares and 1; and where none is, the first alone.

        Args:
            layout: of the tensors.
            moments: (J, ..., N).
        """
        found: list[Any] = [None] * len(self._shapes)
        alone = not any(group.shape for group in self._groups)
        for group in self._groups:
            count, models = len(group.members), tuple(moments.shape)[:-1]
            if not group.shape:
                numbers = moments[..., group.place]
                each = [numbers] if alone else [numbers, numbers, ops.ones_like(numbers)]
                together = ops.stack(each)
                start = 0
                for k in group.members:
                    end = start + math.prod(self._shapes[k])
                    found[k] = ops.reshape(
                        together[..., start:end], (len(each), *models, *self._shapes[k]))
                    start = end
                continue
            row, column = self._rows_and_columns(group, moments)
            mean = ops.mean(row, axis=group.second, keepdims=True)
            whole = (*models, count, *group.shape)
            together = ops.stack([ops.broadcast_to(x, whole) for x in (row, column, mean)])
            axis = -1 - len(group.shape)
            for k, tensor in zip(group.members, ops.unstack(together, count, axis=axis)):
                found[k] = tensor
        return tuple(ops.unstack(layout.flatten(found), 1 if alone else 3))

    def per_tensor(self, moments: Any) -> list[tuple[Any, ...]]:
        """Of each tensor its rows and columns, (J, ..., *shape) with one axis of length 1; where it
        is not factored its mean squares, (J, ..., *shape), alone."""
        found: list[tuple[Any, ...]] = [()] * len(self._shapes)
        for group in self._groups:
            if group.shape:
                axis = -1 - len(group.shape)
                found_here = zip(*(
                    ops.unstack(x, len(group.members), axis=axis)
                    for x in self._rows_and_columns(group, moments)))
                for k, both in zip(group.members, found_here):
                    found[k] = both
                continue
            start = group.place.start
            for k in group.members:
                end = start + math.prod(self._shapes[k])
                found[k] = (ops.reshape(
                    moments[..., start:end], (*tuple(moments.shape)[:-1], *self._shapes[k])),)
                start = end
        return found

    def _rows_and_columns(self, group: _Group, moments: Any) -> tuple[Any, Any]:
        """(J, ..., G, *rows) and (J, ..., G, *columns)."""
        count, models = len(group.members), tuple(moments.shape)[:-1]
        split = group.place.start + count * math.prod(group.rows)
        return (
            ops.reshape(
                moments[..., group.place.start : split], (*models, count, *group.rows)),
            ops.reshape(
                moments[..., split : group.place.stop], (*models, count, *group.columns)))

    def _stacked(self, group: _Group, tensors: Sequence[Any]) -> Any:
        """(..., G, *shape) the tensors of a group; (..., numbers) where they are not factored."""
        given = [tensors[k] for k in group.members]
        if group.shape:
            return ops.stack(given, axis=-1 - len(group.shape)) if len(given) > 1 else (
                ops.expand_dims(given[0], -1 - len(group.shape)))
        flat = []
        for k, tensor in zip(group.members, given):
            rank = len(self._shapes[k])
            models = tuple(tensor.shape)[: len(tensor.shape) - rank]
            flat.append(ops.reshape(tensor, (*models, math.prod(self._shapes[k]))))
        return ops.concatenate(flat, axis=-1) if len(flat) > 1 else flat[0]


@functools.cache
def factored_of(shapes: tuple[tuple[int, ...], ...]) -> Factored:
    """The factored moments of tensors of these shapes."""
    return Factored(shapes)


def _floored_rsqrt(x: Any) -> Any:
    return ops.rsqrt(ops.maximum(x, _LEAST))


class Decays(NamedTuple):
    """Decays of all running means: (J,) of the momenta, () of the mean square, (J,) of the factored
    ones. What is new counts by 1 less them."""

    momenta: Any
    mean_square: Any
    factored: Any


# The state. All of it is of slow averages, which half of the bits would not move.
FIELDS = {
    "momenta": Field(leading=(TIME_SCALES,), wide=True),
    "mean_square": Field(wide=True),
    "factored": Field(
        "vector", (TIME_SCALES,), wide=True,
        owners=lambda layout: factored_of(layout.shapes).owners),
}
AVERAGES = ("momenta", "mean_square")


def averages(state: State, gradient: Any, decays: Decays) -> State:
    """Momenta and mean squares with this gradient, whose entries can be squared; of all blocks or
    some, (..., B, L)."""
    momentum = ops.reshape(
        ops.convert_to_tensor(decays.momenta), (-1,) + (1,) * len(gradient.shape))
    old = {name: ops.cast(state[name], "float32") for name in AVERAGES}
    return {
        "momenta": momentum * old["momenta"] + (1.0 - momentum) * gradient,
        "mean_square": decays.mean_square * old["mean_square"]
        + (1.0 - decays.mean_square) * ops.square(gradient)}


def factored(layout: Layout, state: State, gradient: Any, decays: Decays) -> State:
    """Factored moments with this gradient, (..., B, L)."""
    return {"factored": factored_of(layout.shapes).observe(
        ops.cast(state["factored"], "float32"), layout.unflatten(gradient), decays.factored)}


def observe(layout: Layout, state: State, gradient: Any, decays: Decays) -> State:
    """The state of `FIELDS` with this gradient, (..., B, L), whose entries can be squared."""
    return averages(state, gradient, decays) | factored(layout, state, gradient, decays)


class Parts(NamedTuple):
    """What the networks read of a parameter, (F, ..., B, L) each.

    Attributes:
        momenta, mean_square: of the state.
        scaled_momenta, inverse: momenta over the root of the mean square, and 1 over that.
        factored_gradient, factored_momenta: times the factored scales.
        row, column, inverse_row, inverse_column: factored moments, and 1 over their roots.
    """

    momenta: Any
    mean_square: Any
    scaled_momenta: Any
    inverse: Any
    factored_gradient: Any
    factored_momenta: Any
    row: Any
    column: Any
    inverse_row: Any
    inverse_column: Any


class Spread(NamedTuple):
    """Factored moments at every parameter of all blocks or some, (J, ..., B, L) each.

    Attributes:
        row, column: where tensors are not factored, the mean squares themselves.
        row_mean: over the rows that a column belongs to.
        matrices: (B, 1) where tensors are factored; None, as all but `row`, where none is.
    """

    row: Any
    column: Any = None
    row_mean: Any = None
    matrices: Any = None


def spread(layout: Layout, moments: Any) -> Spread:
    """Of factored moments, (J, ..., N)."""
    row, *others = factored_of(layout.shapes).spread(layout, moments)
    if not others:
        return Spread(row)
    column, row_mean = others
    matrices = np.array([len(shape) > 1 for shape in layout.shapes])
    return Spread(row, column, row_mean, layout.to_lanes(matrices))


def parts(
    averages: State, spread: Spread, gradient: Any, epsilon: float, vector_epsilon: float
) -> Parts:
    """The parts, of all blocks or some.

    Args:
        averages, spread: of moments that know the gradient already.
        gradient: (..., B, L).
        epsilon: added to mean squares.
        vector_epsilon: added to those by which momenta are scaled where they are not factored.
    """
    momenta, mean_square = averages["momenta"], ops.expand_dims(averages["mean_square"], 0)
    row = spread.row
    inverse = ops.rsqrt(mean_square + epsilon)
    small = row + vector_epsilon < _LEAST_DIFFERENTIATED
    # 0 is only where the buffer is padding.
    of_momenta = ops.rsqrt(ops.maximum(
        ops.where(small, ops.stop_gradient(row), row) + vector_epsilon, _PADDING))
    scale, column = _floored_rsqrt(row + _LEAST), row
    inverse_column = inverse_row = ops.rsqrt(row + _READ_EPSILON)
    if spread.matrices is not None:
        column = spread.column
        inverse_column = ops.rsqrt(column + _READ_EPSILON)
        of_matrices = _floored_rsqrt(row / (spread.row_mean + _LEAST)) * _floored_rsqrt(column)
        scale, of_momenta = (
            ops.where(spread.matrices, of_matrices, x) for x in (scale, of_momenta))
    return Parts(
        momenta, mean_square, momenta * inverse, inverse, gradient * scale, momenta * of_momenta,
        row, column, inverse_row, inverse_column)


def bounded(inputs: Any, used_lanes: Any) -> Any:
    """Inputs that can be squared, with 0 where the buffer is padding: there, what is no parameter's
    may be of any size beside the tensor's.

    Args:
        inputs: (F, ..., B, L) of all blocks or some.
        used_lanes: (B,) of these; None where there is no padding.
    """
    inputs = ops.clip(inputs, -LARGEST_INPUT, LARGEST_INPUT)
    if used_lanes is None:
        return inputs
    used = ops.less(
        np.arange(inputs.shape[-1], dtype="int32"), ops.expand_dims(used_lanes, -1))
    return ops.where(used, inputs, 0.0)


def layers(kernels: Sequence[Any], biases: Sequence[Any], x: Any) -> Any:
    """(m, ...) what fully connected layers with ReLUs between them make of (n, ...)."""
    for kernel, bias in zip(kernels[:-1], biases[:-1]):
        x = ops.relu(affine(kernel, x, bias))
    return affine(kernels[-1], x, biases[-1])


def truncated_normal(rng: np.random.Generator, shape: Sequence[int], fan_in: int) -> np.ndarray:
    """Normal numbers of variance 1 / fan_in, drawn again where they are beyond 2 deviations."""
    draws = rng.normal(size=shape)
    while (beyond := np.abs(draws) > 2.0).any():
        draws[beyond] = rng.normal(size=int(beyond.sum()))
    return (draws / math.sqrt(fan_in)).astype("float32")
