"""The axes in which a network works: of each tensor, those of its gradients' spread.

A tensor is a matrix (`hrnn_opt.rules.matrix`). Its gradients G have second moments over its rows,
E[G G'], and over its columns, E[G' G]; their eigenvectors are axes along which entries of the
turned gradient are hardly correlated. What is scaled entry by entry there is scaled as by the
inverse of the whole covariance (Shampoo, Gupta et al. 2018; Vyas et al. 2024, "SOAP", section 4,
whose axes these are), which entry by entry in the parameters' own axes it is not.

Dimension letters: G tensors of one shape, M x N, and `...` as everywhere.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from keras import ops

from hrnn_opt.checks import Config, check, is_number
from hrnn_opt.interface import Field, State
from hrnn_opt.places import backend
from hrnn_opt.places.layout import Layout
from hrnn_opt.places.sweep import Moved, sweep
from hrnn_opt.registry import register
from hrnn_opt.rules.chain import Rule
from hrnn_opt.rules.matrix import matrix_of

# Sums of larger gradients leave 32 bits, and so does the inverse of one, by which XLA multiplies
# where it is to divide.
_LARGEST_GRADIENT = 1e30
# Of the running means of second moments; before so many steps, means over all of them.
_MOMENT_DECAY = 0.999
# Steps from one turn of the axes to the next; the first so many steps turn them each.
_INTERVAL = 10
# Keeps axes along which there are no gradients where they are. Second moments have a trace of 1.
_SHIFT = 1e-6
# What turning may make of zeros, relative to a tensor's largest entry.
_ROUNDING = 1e-4


class _Side(NamedTuple):
    """One side, the rows or the columns, of all matrices of one shape, where it is turned.

    Attributes:
        group: position among the shapes.
        columns: whether it is the columns.
        length: how many rows or columns.
        blocks, size: how many parts they are cut into, and how many are in each; the last part is
            filled with zeros.
        matrices: parts of all matrices.
        place: where its (matrices, size, size) numbers lie in the flat vector of all sides.
    """

    group: int
    columns: bool
    length: int
    blocks: int
    size: int
    matrices: int
    place: slice

    def rows(self, x: Any) -> Any:
        """(..., G, M, N) cut to (..., G blocks, size, N), or M if it is the columns."""
        x = ops.swapaxes(x, -2, -1) if self.columns else x
        if self.blocks == 1:
            return x
        *models, count, _, across = x.shape
        short = self.blocks * self.size - self.length
        x = ops.pad(x, [(0, 0)] * (len(models) + 1) + [(0, short), (0, 0)]) if short else x
        return ops.reshape(x, (*models, count * self.blocks, self.size, across))

    def whole(self, x: Any) -> Any:
        """The inverse of `rows`."""
        if self.blocks > 1:
            *models, parts, size, across = x.shape
            x = ops.reshape(x, (*models, parts // self.blocks, self.blocks * size, across))
            x = x[..., : self.length, :]
        return ops.swapaxes(x, -2, -1) if self.columns else x


def _blocks(length: int, across: int, limit: int, cut: bool) -> int:
    """How many parts rows or columns are cut into; 0 where they are not turned.

    Longer ones than the limit are cut, if at all, where that takes no more memory than the tensor,
    and where they are no more than ten times the others, as a 3 x 3 convolution's may be: rows of a
    table of embeddings have nothing in common.
    """
    if length <= limit:
        return int(length > 1)
    return -(-length // limit) if cut and 1 < limit <= across and length <= 10 * across else 0


def _orthonormal(matrices: Any) -> Any:
    """(..., n, n) the orthogonal factor Q of each matrix, Q R with R's diagonal positive.

    By Gram and Schmidt, with each column made orthogonal twice, which is enough (Giraud et al.
    2005). Not by `ops.qr`: on a CPU many factorizations at a time can wait for each other for ever
    (JAX 0.10), and its factor's signs are anyone's.

    Args:
        matrices: (..., n, n) regular ones.
    """
    size = matrices.shape[-1]
    return ops.fori_loop(0, size, _next_column, (matrices, ops.zeros_like(matrices)))[1]


def _next_column(k: Any, matrices_and_basis: tuple[Any, Any]) -> tuple[Any, Any]:
    # Of the module: JAX compiles a loop's body once for each function that it sees.
    matrices, basis = matrices_and_basis
    here = ops.cast(ops.equal(ops.arange(matrices.shape[-1]), k), "float32")
    column = ops.matmul(matrices, ops.expand_dims(here, -1))
    for _ in range(2):
        inside = ops.matmul(ops.swapaxes(basis, -2, -1), column)
        column = column - ops.matmul(basis, inside)
    column = column * ops.rsqrt(ops.sum(column * column, axis=-2, keepdims=True))
    return matrices, basis + column * here


class Axes:
    """Which tensors are turned, and the three things to do with them: see `axes_of`.

    Args:
        shapes: of the tensors.
        limit: rows and columns are turned if they are at least 2 and at most so many,
        cut: or in parts, where they are more: see `_blocks`.

    Attributes:
        numbers: how many the second moments of all sides have, and as many their axes.
        turned: positions of the tensors that are.
    """

    def __init__(self, shapes: Sequence[Sequence[int]], limit: int, cut: bool = False) -> None:
        self._shapes = [tuple(shape) for shape in shapes]
        members: dict[tuple[int, int], list[int]] = {}
        for k, shape in enumerate(self._shapes):
            matrix = matrix_of(shape) if len(shape) > 1 else (1, 1)
            if any(_blocks(*sides, limit, cut) for sides in (matrix, matrix[::-1])):
                members.setdefault(matrix, []).append(k)
        self._groups = list(members.items())
        self.turned = sorted(k for group in members.values() for k in group)
        self._sides, self.numbers = [], 0
        for i, (matrix, tensors) in enumerate(self._groups):
            for columns, (length, across) in enumerate((matrix, matrix[::-1])):
                if blocks := _blocks(length, across, limit, cut):
                    size, parts = -(-length // blocks), len(tensors) * blocks
                    end = self.numbers + parts * size**2
                    self._sides.append(_Side(i, bool(columns), length, blocks, size, parts,
                                             slice(self.numbers, end)))
                    self.numbers = end
        sizes: dict[int, list[int]] = {}
        for i, side in enumerate(self._sides):
            sizes.setdefault(side.size, []).append(i)
        self._of_one_size = list(sizes.values())

    @functools.cached_property
    def owners(self) -> np.ndarray:
        """(numbers,) the tensor that each number belongs to."""
        return np.concatenate([
            np.repeat(np.array(self._groups[side.group][1], "int32"), side.blocks * side.size**2)
            for side in self._sides])

    def init_state(self, models: tuple[int, ...] = ()) -> tuple[Any, Any]:
        """(..., numbers) second moments of no gradient, and the parameters' own axes."""
        axes = np.concatenate([
            np.tile(np.eye(side.size, dtype="float32").reshape(-1), side.matrices)
            for side in self._sides])
        return (ops.zeros((*models, self.numbers)),
                ops.copy(ops.broadcast_to(ops.convert_to_tensor(axes), (*models, self.numbers))))

    def observe(
        self, moments: Any, axes: Any, gradients: Mapping[int, Any], steps: Any
    ) -> tuple[Any, Any]:
        """Second moments with these gradients, and axes turned towards their eigenvectors.

        Q <- the orthogonal factor of (C + 1e-6) Q, a step of orthogonal iteration, with C the
        running mean of G G' / |G|^2 or G' G / |G|^2: gradients count alike, whatever their size. A
        tensor whose gradient is 0 keeps both.

        Args:
            moments, axes: (..., numbers), as they were.
            gradients: (..., *shape) of the tensors that are turned, by their positions.
            steps: (...) steps taken so far.

        Returns:
            The new moments and axes.
        """
        decay = ops.minimum(steps / (steps + 1.0), _MOMENT_DECAY)[..., None, None, None]
        groups, known = [], []
        for x in map(ops.stop_gradient, self._stacked(gradients)):
            # Squares of what is far from 1 leave 32 bits.
            largest = ops.max(ops.abs(x), axis=(-2, -1), keepdims=True)
            x = x / ops.where(largest > 0, largest, 1.0)
            known.append(largest > 0)
            groups.append(x * ops.rsqrt(ops.where(
                largest > 0, ops.sum(x * x, axis=(-2, -1), keepdims=True), 1.0)))

        felt = [ops.repeat(known[side.group], side.blocks, axis=-3) if side.blocks > 1
                else known[side.group] for side in self._sides]
        new_moments = []
        for side, old, here in zip(self._sides, self._split(moments), felt):
            x = side.rows(groups[side.group])
            square = ops.matmul(x, ops.swapaxes(x, -2, -1))
            new_moments.append(ops.where(here, decay * old + (1.0 - decay) * square, old))

        due = ops.logical_or(steps < _INTERVAL, ops.equal(ops.mod(steps, _INTERVAL), 0.0))
        turned = due[..., None, None, None]

        def turn() -> Any:
            old_axes = self._split(axes)
            new_axes = list(old_axes)
            for sides in self._of_one_size:
                old = ops.concatenate([old_axes[i] for i in sides], axis=-3)
                moment = ops.concatenate([new_moments[i] for i in sides], axis=-3)
                basis = _orthonormal(ops.matmul(moment, old) + _SHIFT * old)
                end = 0
                for i in sides:
                    start, end = end, end + self._sides[i].matrices
                    new_axes[i] = ops.where(
                        ops.logical_and(turned, felt[i]), basis[..., start:end, :, :], old_axes[i])
            return self._joined(new_axes)

        return self._joined(new_moments), backend.cond(ops.any(due), turn, lambda: axes)

    def turn(
        self, axes: Any, tensors: Mapping[int, Any], back: bool = False, cleaned: bool = False
    ) -> dict[int, Any]:
        """Tensors (..., *shape), by their positions, each in the turned axes; or back from there.

        Args:
            axes: (..., numbers).
            tensors: (..., *shape) those that are turned.
            back: from the turned axes to the parameters' own.
            cleaned: entries that only rounding keeps from 0 are made 0. Gradients of few examples
                have many; entries are to be scaled by their own mean squares, however small.
        """
        given = self._stacked(tensors)
        groups = list(given)
        for side, basis in zip(self._sides, self._split(axes)):
            across = ops.swapaxes(basis, -2, -1)
            x = groups[side.group]
            if side.columns and side.blocks == 1:
                # As below, without transposing.
                groups[side.group] = ops.matmul(x, across if back else basis)
            else:
                groups[side.group] = side.whole(
                    ops.matmul(basis if back else across, side.rows(x)))
        if cleaned:
            groups = [
                ops.where(ops.abs(x) > _ROUNDING * ops.max(
                    ops.abs(old), axis=(-2, -1), keepdims=True), x, 0.0)
                for x, old in zip(groups, given)]
        return {
            k: ops.reshape(x[..., i, :, :], tensors[k].shape)
            for (_, members), x in zip(self._groups, groups) for i, k in enumerate(members)}

    def _stacked(self, tensors: Mapping[int, Any]) -> list[Any]:
        """(..., G, M, N) for each shape of a matrix that is turned."""
        stacks = []
        for matrix, members in self._groups:
            matrices = []
            for k in members:
                models = tuple(tensors[k].shape)[: -len(self._shapes[k])]
                matrices.append(ops.reshape(tensors[k], (*models, *matrix)))
            stacks.append(ops.stack(matrices, axis=-3))
        return stacks

    def _split(self, flat: Any) -> list[Any]:
        """(..., numbers) as (..., G, size, size) for each side."""
        models = tuple(flat.shape)[:-1]
        return [
            ops.reshape(flat[..., side.place], (*models, side.matrices, side.size, side.size))
            for side in self._sides]

    def _joined(self, sides: Sequence[Any]) -> Any:
        return ops.concatenate(
            [ops.reshape(x, (*tuple(x.shape)[:-3], -1)) for x in sides], axis=-1)


@functools.cache
def axes_of(shapes: tuple[tuple[int, ...], ...], limit: int, cut: bool = False) -> Axes | None:
    """The axes of tensors of these shapes; None where none of them is turned."""
    axes = Axes(shapes, limit, cut)
    return axes if axes.numbers else None


@dataclasses.dataclass(frozen=True)
class RotationConfig(Config):
    """Switches of the rule.

    Args:
        limit: rows and columns are turned if they are at least 2 and at most so many; 1 to 8192.
        cut: longer ones are turned in parts of at most so many, each in axes of its own, where the
            other side is at least as long as the limit, and as a tenth of this one (after the
            blocks of Anil et al. 2020, "Scalable Second Order Optimization for Deep Learning").

    Raises:
        ValueError: if one is not that.
    """

    limit: int = 128
    cut: bool = False

    NAME: ClassVar[str] = "rotation"

    def __post_init__(self) -> None:
        check(self, "limit", is_number(self.limit, int) and 1 <= self.limit <= 8192,
              "an integer from 1 to 8192")
        check(self, "cut", isinstance(self.cut, bool), "True or False")


@register
class Rotation(Rule):
    """Gradients are turned to their axes on the way to the inner network, updates back.

    What the inner network's state has of single parameters then belongs to entries of the turned
    tensors. Second moments and axes are constants to meta-gradients: who differentiates a step does
    not differentiate where its axes came from.

    Turned back, updates of the entries around it reach one that has never had a gradient. Where the
    inner network would not have moved that, it stays all the same.
    """

    Config = RotationConfig

    @property
    def own_fields(self):
        def owners(layout: Layout) -> np.ndarray:
            axes = self._axes(layout)
            return axes.owners if axes else np.zeros(0, "int32")

        numbers = Field("vector", wide=True, owners=owners)
        fields = {"rotation_steps": Field("model", wide=True), "moments": numbers, "axes": numbers}
        # Whether an entry has ever had a gradient.
        return fields | {"felt": Field()} if self.still else fields

    def _axes(self, layout: Layout) -> Axes | None:
        return axes_of(layout.shapes, self.config.limit, self.config.cut)

    def init_own_state(self, layout, models):
        state = super().init_own_state(layout, models)
        axes = self._axes(layout)
        if axes:
            state["moments"], state["axes"] = axes.init_state(models)
        return state

    def around(self, layout, state, seen, inner, active):
        rotation, steps = self._axes(layout), state["rotation_steps"]
        own = {name: state[name] for name in self.own_fields} | {"rotation_steps": steps + 1.0}
        if rotation is None:
            return own, inner(seen)
        if self.still:
            own |= sweep(_feel, layout, {"felt": state["felt"]}, (seen.gradient,), rows=0, sums=(),
                         light=True).state
        gradient = ops.clip(seen.gradient, -_LARGEST_GRADIENT, _LARGEST_GRADIENT)
        gradients = layout.some_of(gradient, rotation.turned)
        own["moments"], axes = map(ops.stop_gradient, rotation.observe(
            ops.stop_gradient(state["moments"]), ops.stop_gradient(state["axes"]), gradients,
            ops.stop_gradient(steps)))
        own["axes"] = axes

        def turned(buffer: Any, back: bool = False) -> Any:
            if buffer is None:
                return None
            return layout.with_some(
                buffer, rotation.turn(axes, layout.some_of(buffer, rotation.turned), back))

        needs = self.inner.needs
        step = inner(seen._replace(
            gradient=layout.with_some(gradient, rotation.turn(axes, gradients, cleaned=True)),
            offset=turned(seen.offset) if "offset" in needs else seen.offset,
            parameters=turned(seen.parameters) if "parameters" in needs else seen.parameters))
        update, ahead = turned(step.update, back=True), turned(step.ahead, back=True)
        if self.still:
            felt = own["felt"] > 0
            update = ops.where(felt, update, 0.0)
            ahead = None if ahead is None else ops.where(felt, ahead, 0.0)
        # Of the turned entries, which are not the caller's.
        return own, step._replace(update=update, ahead=ahead, squares=None, metric=None)


def _feel(state: State, given: list[Any], used_lanes: Any, moves: Any | None) -> Moved:
    """Which entries have ever had a gradient, of all blocks or some."""
    (gradient,) = given
    return Moved({"felt": ops.maximum(state["felt"], ops.cast(gradient != 0, "float32"))}, [], [])
