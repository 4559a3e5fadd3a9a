"""Where the parameters of each tensor lie in one flat buffer of blocks and lanes.

Dimension letters, used in comments and names: K tensors, B blocks, L lanes (parameters in a block),
F features, `...` any axes of models side by side (none in Keras training, tasks in meta-training).
Every tensor is padded to whole blocks, so that a sum over a tensor is a sum over lanes, which
vectorises, followed by one over its few blocks; and a model of many small tensors costs no more
operations than a model of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from hrnn_opt.places import backend

# What one more block costs, in parameters: the per-block part of sums and broadcasts.
_BLOCK_COST = 8
_MOST_LANES = 4096
# Features a multiple of this many numbers apart collide in the cache.
_COLLISION = 256
# Up to here a slice for each tensor is cheaper than a scatter, in its derivative above all.
_FEW_TENSORS = 32


def _lanes_for(sizes: Sequence[int]) -> int:
    """The number of lanes with the least padding and the fewest blocks, where features do not lie
    a multiple of 1 KB apart: the same element of all of them would then compete for the same few
    lines of the cache, which makes parts of a step up to five times as slow."""
    most = max(sizes)
    candidates = np.arange(8, _MOST_LANES + 1, 8)
    candidates = np.union1d(candidates[candidates < most], min(most, _MOST_LANES))
    blocks = np.sum(-(-np.asarray(sizes)[:, None] // candidates), axis=0)
    collide = (blocks * candidates) % _COLLISION == 0
    cost = blocks * (candidates + _BLOCK_COST) * np.where(collide, 1.5, 1.0)
    return int(candidates[np.argmin(cost)])


class Layout:
    """A packing of K tensors into B blocks of L lanes.

    Args:
        shapes: the shape of each tensor; none may be empty.
        lanes: parameters in a block; chosen from the sizes if not given.
        names: of the tensors, as far as somebody knows them.

    Attributes:
        shapes, names: the tensors' shapes and names; "" for one without a name.
        sizes: (K,) number of parameters of each tensor.
        tensors, blocks, lanes: K, B and L.
        used_lanes: (B,) how many lanes of each block are no padding; None where there is none.

    Raises:
        ValueError: if there is no tensor, or one of them has no element.
    """

    def __init__(
        self, shapes: Sequence[Sequence[int]], lanes: int | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.shapes = tuple(tuple(int(n) for n in shape) for shape in shapes)
        self.names = ("",) * len(self.shapes) if names is None else tuple(names)
        self.sizes = np.array([int(np.prod(shape)) for shape in self.shapes], np.int64)
        if not len(self.sizes) or self.sizes.min() < 1:
            raise ValueError(
                f"`shapes` must name at least one tensor, each with an element, got {self.shapes}.")
        self.lanes = lanes or _lanes_for([int(size) for size in self.sizes])
        blocks = -(-self.sizes // self.lanes)
        self.tensors = len(self.sizes)
        self.blocks = int(blocks.sum())
        self.parameters = int(self.sizes.sum())
        self._tensor_of_block = np.repeat(np.arange(self.tensors, dtype="int32"), blocks)
        self._first_block = np.concatenate([[0], np.cumsum(blocks)])
        self._one_block_each = self.blocks == self.tensors
        self.used_lanes = None
        if self.blocks * self.lanes != self.parameters:
            self.used_lanes = np.full(self.blocks, self.lanes, "int32")
            self.used_lanes[self._first_block[1:] - 1] -= (
                blocks * self.lanes - self.sizes).astype("int32")

    @property
    def slices(self) -> list[slice]:
        """Where the parameters of each tensor lie in a buffer (..., B * L)."""
        starts = self._first_block[:-1] * self.lanes
        return [slice(int(n), int(n + size)) for n, size in zip(starts, self.sizes)]

    def _block_slice(self, k: int) -> slice:
        return slice(int(self._first_block[k]), int(self._first_block[k + 1]))

    def flatten(self, tensors: Sequence[Any], dtype: str | None = None) -> Any:
        """K tensors (..., *shape) as one (..., B, L) buffer; the padding is zero."""
        return self._joined([
            piece for k, tensor in enumerate(tensors) for piece in self._padded(k, tensor, dtype)])

    def _padded(self, k: int, tensor: Any, dtype: str | None = None) -> list[Any]:
        """(..., n) what stands for the k-th tensor (..., *shape) in a buffer, in one piece or two;
        the padding is zero."""
        models = tuple(tensor.shape)[: len(tensor.shape) - len(self.shapes[k])]
        flat = ops.reshape(tensor, (*models, int(self.sizes[k])))
        if dtype is not None:
            flat = ops.cast(flat, dtype)
        blocks = self._block_slice(k)
        pad = (blocks.stop - blocks.start) * self.lanes - int(self.sizes[k])
        if not pad:
            return [flat]
        if self.tensors <= _FEW_TENSORS:
            return [ops.pad(flat, (*((0, 0),) * len(models), (0, pad)))]
        # XLA compiles a program for each pad, and one for all that is put together.
        return [flat, ops.zeros((*models, pad), dtype=flat.dtype)]

    def _joined(self, pieces: Sequence[Any]) -> Any:
        """(..., blocks, L) the pieces (..., n) one after the other, whole blocks in all."""
        joined = ops.concatenate(pieces, axis=-1) if len(pieces) > 1 else pieces[0]
        return ops.reshape(joined, (*tuple(joined.shape)[:-1], -1, self.lanes))

    def unflatten(self, buffer: Any) -> list[Any]:
        """One (..., B, L) buffer as K tensors (..., *shape)."""
        return list(self.some_of(buffer, range(self.tensors)).values())

    def some_of(self, buffer: Any, which: Sequence[int]) -> dict[int, Any]:
        """(..., *shape) those tensors of a (..., B, L) buffer, by their positions."""
        models, slices = tuple(buffer.shape)[:-2], self.slices
        flat = ops.reshape(buffer, (*models, self.blocks * self.lanes))
        return {k: ops.reshape(flat[..., slices[k]], (*models, *self.shapes[k])) for k in which}

    def with_some(self, buffer: Any, tensors: Mapping[int, Any]) -> Any:
        """The (..., B, L) buffer with those tensors (..., *shape), by their positions, in place of
        its own."""
        if backend.compiled_by_xla() and len(buffer.shape) == 2:
            # In place where nothing else reads the buffer, if written by whole blocks.
            for k, tensor in tensors.items():
                buffer = ops.slice_update(
                    buffer, (self._block_slice(k).start, 0), self._joined(self._padded(k, tensor)))
            return buffer
        # What lies between two tensors is one piece, whatever it consists of: XLA compiles a
        # program for each piece.
        flat = ops.reshape(buffer, (*tuple(buffer.shape)[:-2], self.blocks * self.lanes))
        pieces, end = [], 0
        for k in sorted(tensors):
            blocks = self._block_slice(k)
            if end < blocks.start * self.lanes:
                pieces.append(flat[..., end : blocks.start * self.lanes])
            pieces += self._padded(k, tensors[k])
            end = blocks.stop * self.lanes
        if end < self.blocks * self.lanes:
            pieces.append(flat[..., end:])
        return self._joined(pieces)

    # Other layouts of the same tensors may lie on many devices: see `sharding.py`.

    def sharding(self, dimensions: int) -> Any | None:
        """The layout that Keras shall give a buffer of so many dimensions; None: its own."""
        return None

    def to_file(self, buffer: np.ndarray) -> np.ndarray:
        """The buffer (..., B, L) as it is saved: as a `Layout` of the same tensors has it."""
        return buffer

    def from_file(self, buffer: np.ndarray) -> Any:
        """The buffer (..., B, L) that `to_file` gave."""
        return buffer

    def tensor_mean(self, x: Any) -> Any:
        """(F, ..., B, L) to (F, ..., K): the mean of each feature over each tensor's parameters."""
        return self.mean_of_blocks(block_sums(x, self.used_lanes))

    def mean_of_blocks(self, sums: Any) -> Any:
        """(F, ..., B) sums over the lanes of each block to (F, ..., K) means over each tensor."""
        sums = self._sum_blocks(sums)
        return sums / ops.convert_to_tensor(self.sizes.astype("float32"), sums.dtype)

    def _sum_blocks(self, x: Any) -> Any:
        if self._one_block_each:
            return x
        if self.tensors <= _FEW_TENSORS:
            return ops.stack(
                [ops.sum(x[..., self._block_slice(k)], axis=-1) for k in range(self.tensors)],
                axis=-1)
        return ops.moveaxis(
            ops.segment_sum(
                ops.moveaxis(x, -1, 0), ops.convert_to_tensor(self._tensor_of_block),
                num_segments=self.tensors,
            ), 0, -1)

    def to_lanes(self, x: Any) -> Any:
        """(..., K) to (..., B, 1): each tensor's value, broadcastable to its parameters."""
        if self._one_block_each:
            return ops.expand_dims(x, -1)
        if self.tensors <= _FEW_TENSORS:
            before = tuple(x.shape)[:-1]
            pieces = []
            for k in range(self.tensors):
                blocks = self._block_slice(k)
                pieces.append(ops.broadcast_to(
                    x[..., k : k + 1], (*before, blocks.stop - blocks.start)))
            x = ops.concatenate(pieces, axis=-1)
        else:
            x = ops.take(x, ops.convert_to_tensor(self._tensor_of_block), axis=-1)
        return ops.expand_dims(x, -1)

    def model_mean(self, x: Any) -> Any:
        """(..., K) to (...): the mean over all parameters, given the mean over each tensor."""
        weights = (self.sizes / self.parameters).astype("float32")
        return ops.sum(x * ops.convert_to_tensor(weights, x.dtype), axis=-1)


def block_sums(x: Any, used_lanes: Any | None = None) -> Any:
    """(F, ..., B, L) to (F, ..., B): sums over the lanes.

    Args:
        x: of all blocks of a layout, or some.
        used_lanes: theirs: the GRU moves the padded lanes too; they must not count. None where the
            padding is 0, as of gradients and of what is odd in them: XLA then sums what it
            computes, without keeping it.
    """
    if used_lanes is not None:
        used = ops.less(np.arange(x.shape[-1], dtype="int32"), ops.expand_dims(used_lanes, -1))
        # PyTorch selects ten times as slowly as it multiplies; the padding is finite.
        x = x * ops.cast(used, x.dtype) if backend.overwrites() else ops.where(used, x, 0.0)
    return ops.sum(x, axis=-1)
