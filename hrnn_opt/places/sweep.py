"""How a level is moved in blocks, and not what it computes.

What is computed of a block on the way to its new state takes many times the state's memory. Moved
some blocks at a time, it stays in a processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from hrnn_opt.places import backend
from hrnn_opt.places.layout import Layout

# Parameters of a model that are moved at a time: as many as what is computed of them on the way
# fits into a processor's cache; on an accelerator, as many as keep it busy; and operation by
# operation, as many as make what it takes to call one small.
_AT_ONCE = {"cpu": 2**15, "light": 2**18, "accelerator": 2**20, "eager": 2**15}
# So many times as many, operation by operation, where there is little work for each. PyTorch shares
# out operations on more than 2^15 numbers among threads.
_IF_LIGHT = 4
# Compiled by XLA for a CPU, all at once is faster up to so many turns: what a step takes for a
# moment is then little enough for the C library to keep it from one step to the next.
_TURNS_IF_LIGHT = 8


class Moved(NamedTuple):
    """What a level makes of some blocks, in a step.

    Attributes:
        state: by name, the new arrays (*leading, ..., B, L).
        rows: (..., B, L) each: what the caller wants of every parameter.
        sums: (F, ..., B) each: sums over lanes.
    """

    state: dict[str, Any]
    rows: Sequence[Any]
    sums: Sequence[Any]


# (state in float32, what is given, used lanes, which blocks are moved) -> Moved; all of the same
# blocks. Which are moved is (B, 1) booleans, or None for all; the others the move holds.
Move = Callable[[dict[str, Any], list[Any], Any, Any | None], Moved]


def hold(moves: Any | None, new: Any, old: Any) -> Any:
    """The new state of what is moved, and the old one of what is not.

    What is computed of a new state is best computed of this: of what is read both before and after
    it, XLA makes two arrays.

    Args:
        moves: (B, 1) booleans, or None for all.
        new, old: (..., B, L).
    """
    return new if moves is None else ops.where(moves, new, old)


def sweep(
    move: Move, layout: Layout, state: Mapping[str, Any], given: Sequence[Any], rows: int,
    sums: Sequence[int], active: Any | None = None, taken: Any | None = None,
    light: bool = False,
) -> Moved:
    """Move all blocks.

    Args:
        move: moves some of them.
        layout: of all.
        state: by name, arrays (*leading, ..., B, L) in the types that they are kept in; there may
            be none.
        given: beside it, what `move` reads: first the gradient or another (..., B, L), then such,
            (..., B, 1), (..., 1, 1) or None.
        rows: how many rows `move` gives.
        sums: how many features each of its sums has.
        active: (K,) booleans: the tensors that are moved; None: all.
        taken: () boolean: whether anything is moved. The old state may then be overwritten by the
            new one, on PyTorch.
        light: a move is little work for each number, and is best done of many at a time: compiled
            by XLA, of all, unless they are millions on a CPU.

    Returns:
        The new state, in the types of the old one, and the rest.
    """
    state = dict(state)
    lanes = None if active is None else layout.to_lanes(ops.convert_to_tensor(active, "bool"))
    models = len(given[0].shape) > 2
    if _in_pieces(given[0], light):
        return _moved_in_pieces(
            move, layout, state, given, rows, sums, lanes, taken, _eager_size(light))
    if (light or taken is not None) and not models and _in_turn(layout, light):
        return _moved_in_turn(
            move, layout, state, given, rows, sums, lanes, taken, _at_once(light))
    moved = _moved(move, state, given, layout.used_lanes, lanes)
    if taken is not None:
        moved = moved._replace(state={
            name: ops.where(taken, x, state[name]) for name, x in moved.state.items()})
    return moved


def _moved(
    move: Move, state: dict[str, Any], given: Sequence[Any], used_lanes: Any, lanes: Any
) -> Moved:
    moved = move(
        {name: ops.cast(x, "float32") for name, x in state.items()}, list(given), used_lanes, lanes)
    return moved._replace(
        state={name: ops.cast(moved.state[name], x.dtype) for name, x in state.items()})


def _at_once(light: bool) -> int:
    return _AT_ONCE["accelerator" if backend.on_accelerator() else "light" if light else "cpu"]


def _blocks_at_once(blocks: int, lanes: int, at_once: int) -> int:
    """How many blocks a turn moves: a divisor of all of them where there is one about as large as
    wanted, so that no turn has blocks that another one has moved."""
    wanted = max(1, round(at_once / lanes))
    even = [n for n in range(-(-wanted // 2), 2 * wanted) if blocks % n == 0]
    return min(even, key=lambda n: abs(n - wanted), default=min(wanted, blocks))


def _in_turn(layout: Layout, light: bool) -> bool:
    """Whether a step moves some blocks at a time: compiled by XLA, elsewhere a loop that updates
    the state copies it at each turn; one model that is not small and lies on one device."""
    if light and backend.on_accelerator():
        return False
    return (
        backend.compiled_by_xla() and layout.sharding(3) is None
        and layout.blocks * layout.lanes > _at_once(light) * (_TURNS_IF_LIGHT if light else 1))


def _eager_size(light: bool) -> int:
    return _AT_ONCE["eager"] * (_IF_LIGHT if light else 1)


def _in_pieces(buffer: Any, light: bool) -> bool:
    """Whether a step works through the blocks in pieces: on PyTorch, where Keras runs it operation
    by operation."""
    if keras.backend.backend() != "torch" or len(buffer.shape) > 2:
        return False
    import torch

    return (buffer.shape[-2] * buffer.shape[-1] > _eager_size(light)
            and buffer.device.type == "cpu" and not torch.compiler.is_compiling())


def _moved_in_turn(
    move: Move, layout: Layout, state: dict[str, Any], given: Sequence[Any], rows: int,
    sums: Sequence[int], active: Any, taken: Any, at_once: int,
) -> Moved:
    """As `_moved`, some blocks at a time. Unless `taken`, all stays as it is.

    The condition is also what has XLA work in place: a branch's operands are slices that are made
    before it, and what it gives is written after it, so that nothing reads the whole state while it
    changes, and no copy of it is needed.
    """
    blocks, lanes = layout.blocks, layout.lanes
    size = _blocks_at_once(blocks, lanes, at_once)
    used = layout.used_lanes
    given = [*given, None if used is None else ops.expand_dims(used, -1), active]

    def some(first: Any, x: Any) -> Any:
        if x is None or x.shape[-2] == 1:
            return x
        start = (0,) * (len(x.shape) - 2) + (first, 0)
        return ops.slice(x, start, (*x.shape[:-2], size, x.shape[-1]))

    def turn(i: Any, carry: list[Any]) -> list[Any]:
        # The last turn has as many blocks as the others: the first of them are done.
        first = ops.minimum(i * size, blocks - size)
        before = [some(first, x) for x in carry]
        of_turn = [some(first, x) for x in given]

        def moved() -> list[Any]:
            *others, used, active = of_turn
            part = _moved(move, dict(zip(state, before)), others,
                          None if used is None else used[..., 0], active)
            after = [*part.state.values(), *([ops.stack(part.rows)] if rows else []),
                     *(ops.expand_dims(x, -1) for x in part.sums)]
            if blocks % size == 0:
                return after
            new = ops.expand_dims(ops.arange(size) >= i * size - first, -1)
            return [ops.where(new, x, old) for x, old in zip(after, before)]

        after = moved() if taken is None else ops.cond(taken, moved, lambda: before)
        return [
            ops.slice_update(x, (0,) * (len(x.shape) - 2) + (first, 0), part)
            for x, part in zip(carry, after)]

    results = ops.fori_loop(0, -(-blocks // size), turn, [
        *state.values(), *([ops.zeros((rows, blocks, lanes))] if rows else []),
        *(ops.zeros((features, blocks, 1)) for features in sums)])
    kept, made = results[: len(state)], results[len(state) :]
    of_rows = ops.unstack(made[0], rows) if rows else []
    return Moved(
        dict(zip(state, kept)), of_rows, [x[..., 0] for x in made[1 if rows else 0 :]])


def _moved_in_pieces(
    move: Move, layout: Layout, state: dict[str, Any], given: Sequence[Any], rows: int,
    sums: Sequence[int], active: Any, taken: Any | None, at_once: int,
) -> Moved:
    """As `_moved`, some blocks after the others. The new state is written over the old one where
    the caller says whether the step is `taken`, and nothing is written if it is not; else it is a
    state of its own."""
    after = state if taken is not None else {name: ops.copy(x) for name, x in state.items()}
    used_lanes = layout.used_lanes
    if used_lanes is not None:
        used_lanes = ops.convert_to_tensor(used_lanes)
    blocks, lanes = layout.blocks, layout.lanes
    size = max(1, at_once // lanes)
    # Not zeros: every number of them is written.
    of_rows = [ops.empty((blocks, lanes), dtype="float32") for _ in range(rows)]
    of_sums = [ops.empty((features, blocks), dtype="float32") for features in sums]
    for first in range(0, blocks, size):
        def some(x: Any, first: int = first) -> Any:
            whole = x is None or x.shape[-2] == 1
            return x if whole else x[..., first : first + size, :]

        moved = _moved(
            move, {name: some(x) for name, x in state.items()}, [some(x) for x in given],
            None if used_lanes is None else used_lanes[first : first + size], some(active))
        if taken is None or taken:
            for name, part in moved.state.items():
                some(after[name]).copy_(part)
        for whole, part in zip(of_rows, moved.rows):
            some(whole).copy_(part)
        for whole, part in zip(of_sums, moved.sums):
            whole[:, first : first + size] = part
    return Moved(after, of_rows, of_sums)


def entrywise(
    function: Callable[..., tuple[Any | None, ...]], array: Any, *others: Any | None
) -> tuple[Any | None, ...]:
    """`function(array, *others)`, where each number of what it gives is made of those in the same
    place; on PyTorch, operation by operation, some numbers after others.

    Args:
        function: gives arrays of that shape, or None.
        array, others: of one shape, or None.
    """
    eager = backend.overwrites() and array.device.type == "cpu"
    if not eager or array.numel() <= _eager_size(light=True):
        return function(array, *others)
    flat = [None if x is None else ops.reshape(x, (-1,)) for x in (array, *others)]
    found: list[Any | None] = []
    size = _eager_size(light=True)
    for first in range(0, array.numel(), size):
        here = slice(first, first + size)
        parts = function(*(None if x is None else x[here] for x in flat))
        if not first:
            found = [None if x is None else x.new_empty(array.numel()) for x in parts]
        for whole, part in zip(found, parts):
            if whole is not None:
                whole[here] = part
    return tuple(None if x is None else ops.reshape(x, array.shape) for x in found)
