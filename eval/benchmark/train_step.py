"""Whole training steps with each optimizer, taking turns in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
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


def take_turns(
    model: str, optimizers: dict[str, Callable[[], Any]], batch_size: int, repeats: int,
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of a whole training step with each optimizer, all in this process, taking turns.

    Args:
        model: one of `MODELS`.
        optimizers: by name, what makes each.
        batch_size: random images a step.
        repeats: rounds.

    Returns:
        By name, the seconds in each round, and those of the first call, with building and
        compiling.
    """
    import jax
    import numpy as np

    from eval.runs import jax_session

    shape, classes = ((28, 28, 1), 10) if model == "mnist_conv" else ((224, 224, 3), 1000)
    rng = np.random.default_rng(0)
    x = jax.numpy.asarray(rng.random((batch_size, *shape), "float32"))
    y = jax.numpy.asarray(rng.integers(classes, size=batch_size).astype("int32"))
    # Every step sees the same images.
    order = jax.numpy.broadcast_to(
        jax.numpy.arange(batch_size), (repeats + 1, batch_size))
    steps, states, first = {}, {}, {}
    for name, make in optimizers.items():
        started = time.perf_counter()
        network, optimizer = build_model(model), make()
        optimizer.build(network.trainable_variables)
        steps[name] = jax_session.compile_step(network, optimizer)
        states[name] = jax.block_until_ready(
            steps[name](jax_session.initial_state(network, optimizer), x, y, order))
        first[name] = time.perf_counter() - started
    seconds: dict[str, list[float]] = {name: [] for name in optimizers}
    for _ in range(repeats):
        for name in optimizers:
            started = time.perf_counter()
            states[name] = jax.block_until_ready(steps[name](states[name], x, y, order))
            seconds[name].append(time.perf_counter() - started)
    return seconds, first


def measure(model: str, batch_size: int, repeats: int) -> dict[str, Any]:
    """What a whole training step costs with HierarchicalLOpt and with hand-designed optimizers.

    Args:
        model: `mnist_conv`, or `resnet50v2` for images of 224 x 224.
        batch_size: random images a step.
        repeats: rounds.

    Returns:
        `step_seconds`, medians by optimizer; `relative`, HierarchicalLOpt's over each other's: the
        median over the rounds; and `first_call_seconds`, with building and compiling.
    """
    from eval.runs import optimizers

    names = (optimizers.LEARNED, *optimizers.BASELINES)
    seconds, first = take_turns(model, {
        name: lambda name=name: optimizers.build(
            name, learning_rate=None, schedule="constant", steps=1)
        for name in names}, batch_size, repeats)
    return {
        "step_seconds": {name: statistics.median(times) for name, times in seconds.items()},
        "relative": {
            name: statistics.median(
                ours / theirs for ours, theirs in zip(seconds[optimizers.LEARNED], seconds[name]))
            for name in optimizers.BASELINES},
        "first_call_seconds": first,
    }


def measure_switch(model: str, batch_size: int, repeats: int) -> dict[str, Any]:
    """What a whole training step costs with a greedy switch of three candidates, where all are
    computed, and where the chosen one alone is, and with each candidate by itself.

    Args:
        model, batch_size, repeats: as in `measure`.

    Returns:
        `step_seconds`, medians by optimizer; `dearest`, the candidate with the largest;
        `relative`, the switch's of both kinds over that one's: the median over the rounds;
        `period_mean`, the mean with `period=200, trial=20`; `first_call_seconds`.
    """
    from eval.runs import optimizers
    from hrnn_opt import GreedySwitch

    candidates = optimizers.CANDIDATES["switch_mixed"]

    def switch(**settings: Any) -> Any:
        return GreedySwitch([optimizers.BASELINES[name]() for name in candidates], **settings)

    seconds, first = take_turns(model, {
        # The first call is the one step of the trial.
        "switch": switch, "switch, alone": lambda: switch(period=1_000_000, trial=1),
        **{name: optimizers.BASELINES[name] for name in candidates},
    }, batch_size, repeats)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    dearest = max(candidates, key=lambda name: medians[name])
    relative = {
        name: statistics.median(
            ours / theirs for ours, theirs in zip(seconds[name], seconds[dearest]))
        for name in ("switch", "switch, alone")}
    return {
        "step_seconds": medians, "dearest": dearest, "relative": relative,
        "period_mean": 0.1 * relative["switch"] + 0.9 * relative["switch, alone"],
        "first_call_seconds": first,
    }
