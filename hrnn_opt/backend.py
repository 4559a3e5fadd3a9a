"""The few things that Keras's backends do differently and that the optimizer has to know."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


def dense(gradient: Any, shape: Sequence[int]) -> Any:
    """A gradient as a tensor: TensorFlow gives an embedding's as slices of its rows."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if isinstance(gradient, tf.IndexedSlices):
            # Not `convert_to_tensor`, whose result has no static shape inside a tf.function.
            return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, shape[0])
    return ops.convert_to_tensor(gradient)


def outside_of_graph() -> contextlib.AbstractContextManager:
    """Where TensorFlow makes variables, if it is tracing the first training step."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.init_scope()
    return contextlib.nullcontext()


def no_gradient() -> contextlib.AbstractContextManager:
    """Outside of autograd, where the backend records eagerly."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()
    return contextlib.nullcontext()


def replicated() -> contextlib.AbstractContextManager:
    """Where variables that say nothing else are on every device, whatever a layout map says of
    their paths: it is meant for the model's."""
    distribution = keras.distribution.distribution()
    if not isinstance(distribution, keras.distribution.ModelParallel):
        return contextlib.nullcontext()
    return keras.distribution.ModelParallel(
        layout_map=keras.distribution.LayoutMap(distribution.device_mesh),
        batch_dim_name=distribution.batch_dim_name).scope()
