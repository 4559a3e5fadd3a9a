"""Where the parameters of each tensor lie in one flat buffer of blocks and lanes.

Dimension letters, used in comments and names: K tensors, B blocks, L lanes (parameters in a block),
F features. Every tensor is padded to whole blocks, so that a sum over a tensor is a sum over lanes,
which vectorises, followed by one over its few blocks; and a model of many small tensors costs no
more operations than a model of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

# What one more block costs, in parameters: the per-block part of sums and broadcasts.
_BLOCK_COST = 8
_MOST_LANES = 4096


def _lanes_for(sizes: Sequence[int]) -> int:
    """The number of lanes with the least padding and the fewest blocks."""
    most = max(sizes)
    candidates = {most} if most <= _MOST_LANES else set()
    candidates |= {2**i for i in range(3, 13) if 2**i < most or not candidates}

    def cost(lanes: int) -> int:
        blocks = sum(-(-size // lanes) for size in sizes)
        return blocks * (lanes + _BLOCK_COST)

    return min(sorted(candidates), key=cost)


class Layout:
    """A packing of K tensors into B blocks of L lanes.

    Args:
        shapes: the shape of each tensor; none may be empty.
        lanes: parameters in a block; chosen from the sizes if not given.

    Attributes:
        shapes: the tensors' shapes.
        sizes: (K,) number of parameters of each tensor.
        tensors, blocks, lanes: K, B and L.

    Raises:
        ValueError: if there is no tensor, or one of them has no element.
    """

    def __init__(self, shapes: Sequence[Sequence[int]], lanes: int | None = None) -> None:
        self.shapes = tuple(tuple(int(n) for n in shape) for shape in shapes)
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
        padded = self.blocks * self.lanes != self.parameters
        self._mask = np.zeros((self.blocks, self.lanes), "float32") if padded else None
        if padded:
            for k, size in enumerate(self.sizes):
                self._mask[self._block_slice(k)].reshape(-1)[:size] = 1.0

    def _block_slice(self, k: int) -> slice:
        return slice(int(self._first_block[k]), int(self._first_block[k + 1]))

    def flatten(self, tensors: Sequence[Any], dtype: str | None = None) -> Any:
        """K tensors as one (B, L) buffer; the padding is zero."""
        pieces = []
        for k, tensor in enumerate(tensors):
            flat = ops.reshape(tensor, (-1,))
            if dtype is not None:
                flat = ops.cast(flat, dtype)
            pad = int(self._first_block[k + 1] - self._first_block[k]) * self.lanes - int(
                self.sizes[k])
            pieces.append(ops.pad(flat, ((0, pad),)) if pad else flat)
        joined = ops.concatenate(pieces) if len(pieces) > 1 else pieces[0]
        return ops.reshape(joined, (self.blocks, self.lanes))

    def unflatten(self, buffer_BxL: Any) -> list[Any]:
        """One (B, L) buffer as K tensors in their shapes."""
        flat = ops.reshape(buffer_BxL, (-1,))
        tensors = []
        for k, shape in enumerate(self.shapes):
            start = int(self._first_block[k]) * self.lanes
            tensors.append(ops.reshape(flat[start : start + int(self.sizes[k])], shape))
        return tensors

    def tensor_mean(self, x_FxBxL: Any) -> Any:
        """(F, K): the mean of each feature over each tensor's parameters."""
        if self._mask is not None:
            # The GRU moves the padded lanes too; they must not count.
            x_FxBxL = x_FxBxL * ops.convert_to_tensor(self._mask, x_FxBxL.dtype)
        sums_FxK = self._sum_blocks(ops.sum(x_FxBxL, axis=-1))
        return sums_FxK / ops.convert_to_tensor(self.sizes.astype("float32"), sums_FxK.dtype)

    def _sum_blocks(self, x_FxB: Any) -> Any:
        if self._one_block_each:
            return x_FxB
        if self.tensors == 1:
            return ops.sum(x_FxB, axis=-1, keepdims=True)
        return ops.transpose(
            ops.segment_sum(
                ops.transpose(x_FxB), ops.convert_to_tensor(self._tensor_of_block),
                num_segments=self.tensors,
            )
        )

    def to_lanes(self, x_FxK: Any) -> Any:
        """(F, B, 1): a value for each tensor, broadcastable to each tensor's parameters."""
        if not self._one_block_each:
            x_FxK = ops.take(x_FxK, ops.convert_to_tensor(self._tensor_of_block), axis=-1)
        return ops.expand_dims(x_FxK, -1)

    def model_mean(self, x_FxK: Any) -> Any:
        """(F,): the mean over all parameters of the model, given the mean over each tensor."""
        weights = (self.sizes / self.parameters).astype("float32")
        return ops.sum(x_FxK * ops.convert_to_tensor(weights, x_FxK.dtype), axis=-1)
