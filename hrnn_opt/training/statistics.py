"""Moving statistics of batch normalization, taken anew from data."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from hrnn_opt.checks import require_count
from hrnn_opt.places import backend


def refresh_statistics(model: keras.Model, data: Any, batch_size: int = 32) -> int:
    """Take the moving statistics of batch normalization anew, at the parameters as they are.

    A moving average of momentum 0.99 remembers some hundred steps, and at first the start values:
    after a few steps, and wherever parameters move fast, evaluation goes by statistics of other
    parameters. This puts in their place the mean of those of all batches, weighted by the batches'
    sizes. Nothing else changes. Frozen layers keep theirs, as they do in training.

    Args:
        model: a built model.
        data: inputs as an array or, by name, as a dict of them; or an iterable of batches as `fit`
            takes them: x, (x, y) or (x, y, sample_weight). A few thousand examples are enough.
        batch_size: of arrays. As in training, since the statistics depend on it a little.

    Returns:
        The number of layers that were refreshed.

    Raises:
        ValueError: if `batch_size` is no positive integer, or `data` has no examples. Then, and at
            an error of the model, the statistics are what they were.
    """
    require_count("batch_size", batch_size, 1)
    layers = [
        layer for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable]
    if not layers:
        return 0
    statistics = {id(v) for layer in layers for v in (layer.moving_mean, layer.moving_variance)}
    before = [(v, np.array(ops.convert_to_numpy(v))) for v in model.non_trainable_variables]
    momenta = [layer.momentum for layer in layers]
    seen = 0
    try:
        for x in _batches(data, batch_size):
            count = _count(x)
            seen += count
            for layer in layers:
                layer.momentum = 1.0 - count / seen
            with backend.no_gradient():
                model(x, training=True)
        if not seen:
            raise ValueError("`data` must have at least one example, got none.")
    except BaseException:
        _restore(before)
        raise
    finally:
        for layer, momentum in zip(layers, momenta):
            layer.momentum = momentum
    # What else a forward pass moves, as the seeds of dropout.
    _restore((v, value) for v, value in before if id(v) not in statistics)
    return len(layers)


def _restore(values: Iterable[tuple[keras.Variable, np.ndarray]]) -> None:
    for variable, value in values:
        variable.assign(value)


def _batches(data: Any, batch_size: int) -> Iterator[Any]:
    """The inputs of each batch."""
    if isinstance(data, Mapping) or hasattr(data, "shape"):
        for start in range(0, _count(data), batch_size):
            rows = slice(start, start + batch_size)
            yield keras.tree.map_structure(operator.itemgetter(rows), data)
        return
    if isinstance(data, keras.utils.PyDataset):
        data = (data[i] for i in range(data.num_batches))
    for batch in data:
        x = batch[0] if isinstance(batch, (tuple, list)) else batch
        if _count(x):
            yield keras.tree.map_structure(ops.convert_to_tensor, x)


def _count(x: Any) -> int:
    return int(keras.tree.flatten(x)[0].shape[0])
