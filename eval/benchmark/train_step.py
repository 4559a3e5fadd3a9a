"""Whole training steps with each optimizer, taking turns in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

MODELS = ("mnist_conv", "resnet50v2", "embedding_200k")
# Of the last one: texts of so many words, of so many there are.
WORDS, VOCABULARY = 32, 200_000
TABLE_BY_ADAM = "hrnn, table by adam"


def build_model(name: str) -> Any:
    """The network of one of `MODELS`."""
    import keras

    from eval.runs import networks

    if name == "mnist_conv":
        return networks.build("conv_relu")
    if name == "embedding_200k":
        return keras.Sequential([
            keras.Input((WORDS,), dtype="int32"),
            keras.layers.Embedding(VOCABULARY, 64, name="table"),
            keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(64, "relu"),
            keras.layers.Dense(10)])
    return keras.applications.ResNet50V2(
        weights=None, input_shape=(224, 224, 3), classes=1000, classifier_activation=None)


def _batch(model: str, size: int) -> tuple[Any, Any]:
    """Random inputs and labels for it."""
    import numpy as np

    rng = np.random.default_rng(0)
    if model == "embedding_200k":
        x, classes = rng.integers(VOCABULARY, size=(size, WORDS)).astype("int32"), 10
    else:
        shape, classes = ((28, 28, 1), 10) if model == "mnist_conv" else ((224, 224, 3), 1000)
        x = rng.random((size, *shape), "float32")
    return x, rng.integers(classes, size=size).astype("int32")


def take_turns(
    model: str, optimizers: dict[str, Callable[[], Any]], batch_size: int, repeats: int,
) -> tuple[dict[str, list[float]], dict[str, float], dict[str, float]]:
    """Seconds of a whole training step with each optimizer, all in this process, taking turns.

    Args:
        model: one of `MODELS`.
        optimizers: by name, what makes each.
        batch_size: random examples a step.
        repeats: rounds.

    Returns:
        By name, the seconds in each round; those of the first call, with building and compiling;
        and the bytes of all that a step holds at once, as the compiler says: parameters, what the
        optimizer keeps, and what it takes for a moment.
    """
    import jax

    from eval.runs import jax_session

    x, y = map(jax.numpy.asarray, _batch(model, batch_size))
    # Every step sees the same examples.
    order = jax.numpy.broadcast_to(
        jax.numpy.arange(batch_size), (repeats + 1, batch_size))
    steps, states, first, peak = {}, {}, {}, {}
    # The first of a process pays for what is done once; the learned one, which comes first, shall
    # not.
    for name, make in reversed(optimizers.items()):
        started = time.perf_counter()
        network, optimizer = build_model(model), make()
        optimizer.build(network.trainable_variables)
        state = jax_session.initial_state(network, optimizer)
        steps[name] = jax_session.compile_step(network, optimizer).lower(
            state, x, y, order).compile()
        states[name] = jax.block_until_ready(steps[name](state, x, y, order))
        first[name] = time.perf_counter() - started
        memory = steps[name].memory_analysis()
        peak[name] = float(
            memory.argument_size_in_bytes + memory.temp_size_in_bytes
            + memory.output_size_in_bytes - memory.alias_size_in_bytes)
    seconds: dict[str, list[float]] = {name: [] for name in optimizers}
    for _ in range(repeats):
        for name in optimizers:
            started = time.perf_counter()
            states[name] = jax.block_until_ready(steps[name](states[name], x, y, order))
            seconds[name].append(time.perf_counter() - started)
    return seconds, first, peak


def measure(
    model: str, batch_size: int, repeats: int, weights: str = "default"
) -> dict[str, Any]:
    """What a whole training step costs with a learned optimizer and with hand-designed ones.

    Args:
        model: `mnist_conv`; `resnet50v2` for images of 224 x 224; `embedding_200k` for texts, where
            an optimizer more leaves the table of 200,000 rows to Adam.
        batch_size: random examples a step.
        repeats: rounds.
        weights: what `LearnedOpt` takes.

    Returns:
        `step_seconds`, medians by optimizer; `relative`, the learned one's over each other's: the
        median over the rounds; `first_call_seconds`, with building and compiling; and
        `peak_bytes`, of all that a step holds at once.
    """
    import keras

    from eval.runs import optimizers

    def learned() -> Any:
        return optimizers.build(
            optimizers.LEARNED, learning_rate=None, schedule="constant", steps=1, weights=weights)

    def table_by_adam() -> Any:
        return keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(
            learned(), {".*table/.*": keras.optimizers.Adam()}))

    makers = {optimizers.LEARNED: learned, **optimizers.BASELINES}
    if model == "embedding_200k":
        makers[TABLE_BY_ADAM] = table_by_adam
    seconds, first, peak = take_turns(model, makers, batch_size, repeats)
    return {
        "step_seconds": {name: statistics.median(times) for name, times in seconds.items()},
        "relative": {
            name: statistics.median(
                ours / theirs for ours, theirs in zip(seconds[optimizers.LEARNED], seconds[name]))
            for name in makers if name != optimizers.LEARNED},
        "first_call_seconds": first,
        "peak_bytes": peak,
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

    seconds, first, _ = take_turns(model, {
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
