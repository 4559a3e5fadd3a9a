"""Whole training steps with each optimizer, taking turns in one process."""

from __future__ import annotations

import statistics
import time
from typing import Any

MODELS = ("mnist_conv", "resnet50v2")


def build_model(name: str) -> Any:
    """The network of one of `MODELS`."""
    import keras

    from eval.runs import networks

    if name == "mnist_conv":
        return networks.build("conv_relu")
    return keras.applications.ResNet50V2(
        weights=None, input_shape=(224, 224, 3), classes=1000, classifier_activation=None)


def measure(model: str, batch_size: int, repeats: int) -> dict[str, Any]:
    """Seconds of a whole training step with each optimizer, all in this process, taking turns.

    Args:
        model: `mnist_conv`, or `resnet50v2` for images of 224 x 224.
        batch_size: random images a step.
        repeats: rounds.

    Returns:
        `step_seconds`, medians by optimizer; `relative`, HierarchicalLOpt's over each other's: the
        median over the rounds; and `first_call_seconds`, with building and compiling.
    """
    import jax
    import numpy as np

    from eval.runs import jax_session, optimizers

    shape, classes = ((28, 28, 1), 10) if model == "mnist_conv" else ((224, 224, 3), 1000)
    rng = np.random.default_rng(0)
    x = jax.numpy.asarray(rng.random((batch_size, *shape), "float32"))
    y = jax.numpy.asarray(rng.integers(classes, size=batch_size).astype("int32"))
    # Every step sees the same images.
    order = jax.numpy.broadcast_to(
        jax.numpy.arange(batch_size), (repeats + 1, batch_size))
    names = (optimizers.LEARNED, *optimizers.BASELINES)
    steps, states, first = {}, {}, {}
    for name in names:
        started = time.perf_counter()
        network, optimizer = build_model(model), optimizers.build(
            name, learning_rate=None, schedule="constant", steps=1)
        optimizer.build(network.trainable_variables)
        steps[name] = jax_session.compile_step(network, optimizer)
        states[name] = jax.block_until_ready(
            steps[name](jax_session.initial_state(network, optimizer), x, y, order))
        first[name] = time.perf_counter() - started
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            started = time.perf_counter()
            states[name] = jax.block_until_ready(steps[name](states[name], x, y, order))
            seconds[name].append(time.perf_counter() - started)
    return {
        "step_seconds": {name: statistics.median(times) for name, times in seconds.items()},
        "relative": {
            name: statistics.median(
                ours / theirs for ours, theirs in zip(seconds[optimizers.LEARNED], seconds[name]))
            for name in optimizers.BASELINES},
        "first_call_seconds": first,
    }
