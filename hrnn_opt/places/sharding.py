"""The flat buffer on many devices: its blocks lie where the variables' shards lie.

With `keras.distribution.ModelParallel` (on JAX) some variables are split over axes of a mesh of
devices. The flat buffer is then split over all of these axes: each device holds one shard of it, as
many blocks as every other. A tensor that is split over an axis is cut there at the same places, so
that its state lies beside it and moves nowhere; a tensor that is not is cut into equal pieces, and
its update is gathered. The step needs to know none of this: it sees one buffer of blocks and lanes,
and its means are over whole tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from hrnn_opt.places.layout import Layout

# For each axis of a tensor, the names of the mesh axes that it is split over, coarsest first.
Spec = tuple[tuple[str, ...], ...]


def _transpose(x: Any, order: Sequence[int], leading: int) -> Any:
    return ops.transpose(x, (*range(leading), *(leading + i for i in order)))


class _Pieces:
    """How one tensor is cut: (..., *shape) to (..., shards, size) and back.

    Args:
        shape, spec: of the tensor.
        mesh: size of each mesh axis that the buffer is split over, coarsest first.

    Attributes:
        size: numbers in a piece, the same for each shard.
        used: (shards,) how many of them are the tensor's; the rest of a piece is padding.
    """

    def __init__(self, shape: tuple[int, ...], spec: Spec, mesh: dict[str, int]) -> None:
        self.shape = shape
        names = list(mesh)
        self._split: list[int] = []
        self._rest_axes: list[int] = []
        place: dict[str, int] = {}
        for n, over in zip(shape, spec):
            for name in over:
                place[name] = len(self._split)
                self._split.append(mesh[name])
            self._rest_axes.append(len(self._split))
            self._split.append(n // math.prod(mesh[name] for name in over))
        cut = [name for name in names if name in place]
        others = [name for name in names if name not in place]
        self._order = [*(place[name] for name in cut), *self._rest_axes]
        self._cut = [mesh[name] for name in cut]
        # What is not split by its own spec is one row of numbers, cut into equal pieces.
        self._row = math.prod(self._split[i] for i in self._rest_axes)
        self._others = [mesh[name] for name in others]
        pieces = math.prod(self._others)
        self.size = -(-self._row // pieces)
        self._padding = pieces * self.size - self._row
        self._mesh_order = [[*cut, *others].index(name) for name in names] + [len(names)]
        starts = self.size * np.arange(pieces).reshape(self._others)
        used = np.broadcast_to(np.clip(self._row - starts, 0, self.size),
                               (*self._cut, *self._others))
        self.used = used.transpose(self._mesh_order[:-1]).reshape(-1)

    def cut(self, tensor: Any) -> Any:
        models = tuple(tensor.shape)[: len(tensor.shape) - len(self.shape)]
        k = len(models)
        x = _transpose(ops.reshape(tensor, (*models, *self._split)), self._order, k)
        x = ops.reshape(x, (*models, *self._cut, self._row))
        if self._padding:
            x = ops.pad(x, (*((0, 0),) * (len(x.shape) - 1), (0, self._padding)))
        x = ops.reshape(x, (*models, *self._cut, *self._others, self.size))
        return ops.reshape(_transpose(x, self._mesh_order, k), (*models, -1, self.size))

    def join(self, pieces: Any) -> Any:
        models = tuple(pieces.shape)[:-2]
        k = len(models)
        sizes = [*self._cut, *self._others, self.size]
        x = ops.reshape(pieces, (*models, *(sizes[i] for i in self._mesh_order)))
        x = _transpose(x, np.argsort(self._mesh_order).tolist(), k)
        x = ops.reshape(x, (*models, *self._cut, -1))[..., : self._row]
        x = ops.reshape(x, (*models, *self._cut, *(self._split[i] for i in self._rest_axes)))
        return ops.reshape(
            _transpose(x, np.argsort(self._order).tolist(), k), (*models, *self.shape))


class ShardedLayout(Layout):
    """A `Layout` whose B blocks are those of the first shard, of the second, and so on.

    Args:
        shapes: the shape of each tensor; none may be empty.
        specs: for each tensor, how it is split.
        mesh: size of each mesh axis that a tensor is split over, coarsest first.
        sharding: `(dimensions) -> a layout that Keras takes`, for a buffer of so many dimensions.
            None leaves all on one device.
        names: as of a `Layout`.
    """

    def __init__(
        self, shapes: Sequence[Sequence[int]], specs: Sequence[Spec], mesh: dict[str, int],
        sharding: Any = None, names: Sequence[str] | None = None,
    ) -> None:
        self._whole = whole = Layout(shapes, names=names)
        self.shapes, self.sizes, self.names = whole.shapes, whole.sizes, whole.names
        self.tensors, self.parameters = whole.tensors, whole.parameters
        self._sharding = sharding or super().sharding
        self._pieces = [_Pieces(shape, spec, mesh) for shape, spec in zip(self.shapes, specs)]
        # Where the pieces of one shard lie.
        self._shard = Layout([(piece.size,) for piece in self._pieces])
        self._shards = math.prod(mesh.values())
        self.lanes = self._shard.lanes
        self.blocks = self._shards * self._shard.blocks
        counts = np.zeros((self._shards, self._shard.blocks), "int32")
        for k, piece in enumerate(self._pieces):
            blocks = self._shard._block_slice(k)
            starts = self.lanes * np.arange(blocks.stop - blocks.start)
            counts[:, blocks] = np.clip(piece.used[:, None] - starts, 0, self.lanes)
        self.used_lanes = counts.reshape(-1)

    def sharding(self, dimensions: int) -> Any | None:
        return self._sharding(dimensions)

    def to_file(self, buffer: np.ndarray) -> np.ndarray:
        return ops.convert_to_numpy(self._whole.flatten(self.unflatten(buffer)))

    def from_file(self, buffer: np.ndarray) -> Any:
        return self.flatten(self._whole.unflatten(np.asarray(buffer)))

    def _apart(self, buffer: Any) -> Any:
        """(..., B, L) to (..., shards, blocks of a shard, L)."""
        return ops.reshape(
            buffer, (*tuple(buffer.shape)[:-2], self._shards, self._shard.blocks, self.lanes))

    def flatten(self, tensors: Sequence[Any], dtype: str | None = None) -> Any:
        buffer = self._shard.flatten(
            [piece.cut(tensor) for piece, tensor in zip(self._pieces, tensors)], dtype)
        buffer = ops.reshape(buffer, (*tuple(buffer.shape)[:-3], self.blocks, self.lanes))
        sharding = self.sharding(len(buffer.shape))
        if sharding is not None:
            buffer = keras.distribution.distribute_tensor(buffer, sharding)
        return buffer

    def unflatten(self, buffer: Any) -> list[Any]:
        return list(self.some_of(buffer, range(self.tensors)).values())

    def some_of(self, buffer: Any, which: Sequence[int]) -> dict[int, Any]:
        pieces = self._shard.some_of(self._apart(buffer), which)
        return {k: self._pieces[k].join(pieces[k]) for k in which}

    def with_some(self, buffer: Any, tensors: Mapping[int, Any]) -> Any:
        return self.flatten([
            tensors.get(k, tensor) for k, tensor in enumerate(self.unflatten(buffer))])

    def _sum_blocks(self, x: Any) -> Any:
        of_shards = ops.reshape(x, (*tuple(x.shape)[:-1], self._shards, self._shard.blocks))
        return ops.sum(self._shard._sum_blocks(of_shards), axis=-2)

    def to_lanes(self, x: Any) -> Any:
        lanes = ops.expand_dims(self._shard.to_lanes(x), -3)
        before = tuple(x.shape)[:-1]
        lanes = ops.broadcast_to(lanes, (*before, self._shards, self._shard.blocks, 1))
        return ops.reshape(lanes, (*before, self.blocks, 1))


def _sharding(variable: keras.Variable) -> Any:
    """The variable's JAX sharding where it is split over a mesh, else None."""
    import jax

    sharding = getattr(variable.value, "sharding", None)
    if isinstance(sharding, jax.sharding.NamedSharding) and not sharding.is_fully_replicated:
        return sharding
    return None


def layout_of(variables: Sequence[keras.Variable]) -> Layout:
    """The layout for these variables, none of them empty: sharded where they are."""
    shapes = [tuple(variable.shape) for variable in variables]
    # TensorFlow's own variables have no path.
    names = [getattr(variable, "path", variable.name) for variable in variables]
    shardings: list[Any] = [None]
    if keras.backend.backend() == "jax":
        shardings = [_sharding(variable) for variable in variables]
    split = [sharding for sharding in shardings if sharding is not None]
    if not split:
        return Layout(shapes, names=names)
    import jax

    mesh = split[0].mesh
    specs: list[Spec] = []
    for shape, sharding in zip(shapes, shardings):
        entries: tuple[Any, ...] = tuple(sharding.spec) if sharding is not None else ()
        entries += (None,) * (len(shape) - len(entries))
        specs.append(tuple(
            () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)
            for entry in entries))
    used = {name for spec in specs for over in spec for name in over}
    axes = {name: size for name, size in mesh.shape.items() if name in used}

    def sharding_of(dimensions: int) -> Any:
        spec = (*(None,) * (dimensions - 2), tuple(axes), None)
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))

    return ShardedLayout(shapes, specs, axes, sharding_of, names)
