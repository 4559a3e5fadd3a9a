"""What `LearningRateDynamics` adds to the time of training."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

BATCH = 64
# In a round.
RECORDS = 10


def measure(network: str, rounds: int, every: int) -> dict[str, Any]:
    """Train with and without the callback in turn, in one process.

    Args:
        network: one of `eval.runs.networks.NETWORKS`, on random images of MNIST's size.
        rounds: how often each; the first of both, which compiles, does not count.
        every: of the callback, which makes ten records in a round.

    Returns:
        `step_seconds`, the median without the callback; and `ratio`, the median over rounds of the
        time with it over that without, by the clock and in processor time (`cpu_ratio`).
    """
    import keras
    import numpy as np

    from eval.runs import networks
    from hrnn_opt import HierarchicalLOpt, LearningRateDynamics

    rng = np.random.default_rng(0)
    batches = RECORDS * every
    x = rng.random((batches * BATCH, 28, 28, 1), "float32")
    y = rng.integers(10, size=len(x))
    model = networks.build(network)
    model.compile(
        HierarchicalLOpt(seed=0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    def seconds(callbacks: Sequence[keras.callbacks.Callback]) -> tuple[float, float]:
        started = time.perf_counter(), time.process_time()
        model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=list(callbacks))
        return time.perf_counter() - started[0], time.process_time() - started[1]

    without, logged = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds + 1):
            without.append(seconds([]))
            logged.append(seconds([LearningRateDynamics(folder, every=every)]))

    def ratio(clock: int) -> float:
        return statistics.median(b[clock] / a[clock] for a, b in zip(without[1:], logged[1:]))

    return {
        "step_seconds": statistics.median(wall for wall, _ in without[1:]) / batches,
        "ratio": ratio(0), "cpu_ratio": ratio(1)}
