"""One training run, with Keras's own model and optimizer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import keras
import numpy as np

from eval.runs import sessions
from eval.runs.data import Data

# How many steps may pass before a run that has diverged is stopped, or progress is reported.
CHECK_EVERY = 100


def evaluation_steps(steps: int) -> list[int]:
    """The steps at which the curve has a point: 50, 100, 200, 500, ... , every 1,000, the last."""
    spaced = {m * 10**e for e in range(1, 9) for m in (1, 2, 5)}
    return sorted(
        s for s in {*spaced, *range(1000, steps, 1000), steps} if 50 <= s < steps or s == steps)


def minibatches(examples: int, batch_size: int, steps: int, seed: int) -> np.ndarray:
    """Which examples each step sees: drawn without replacement, reshuffled every epoch.

    The rest of an epoch that fills no batch is left out.

    Returns:
        Indices of shape (steps, batch_size).
    """
    per_epoch = examples // batch_size
    if not per_epoch:
        raise ValueError(f"`batch_size` must be at most {examples}, got {batch_size}.")
    rng = np.random.default_rng(seed)
    epochs = [
        rng.permutation(examples)[: per_epoch * batch_size].reshape(per_epoch, batch_size)
        for _ in range(math.ceil(steps / per_epoch))
    ]
    return np.concatenate(epochs)[:steps].astype("int32")


def train(model: keras.Model, optimizer: keras.optimizers.Optimizer, data: Data, *, steps: int,
          batch_size: int, seed: int, on_progress: Callable[[int], Any] | None = None,
          accuracies: bool = False) -> dict[str, Any]:
    """Train a network and leave the trained values in the model.

    The run stops early, as diverged, when the loss is no longer finite.

    Args:
        model: maps inputs to logits of what `example_losses` takes as targets.
        optimizer: a Keras optimizer, not built yet.
        data: what to train and test on.
        steps: number of steps.
        batch_size: examples a step.
        seed: draws the minibatches.
        on_progress: called now and then with the number of steps done.
        accuracies: whether to take those on the data to test on at each point of the curve too.

    Returns:
        `final_training_loss`, the mean over the whole training set (None if diverged);
        `test_accuracy` (likewise); `curve`, pairs of step and training loss; `diverged`;
        `step_seconds`, the median over spans of steps of the CPU seconds of a step, of all threads,
        without the first, which compiles, and without evaluations (None for one step): other
        programs hardly change them; `seconds` of all; with `accuracies` the `accuracy_curve`: step,
        and accuracy on the first half of the data to test on and on the second.
    """
    began = time.perf_counter()
    optimizer.build(model.trainable_variables)
    order = minibatches(len(data.y_train), batch_size, steps, seed)
    session = sessions.start(model, optimizer, data.x_train, data.y_train, order)

    curve: list[list[float]] = []
    accuracy_curve: list[list[float]] = []
    half = len(data.y_test) // 2
    halves = [(data.x_test[part], data.y_test[part]) for part in (slice(half), slice(half, None))]
    diverged = False
    evaluations = set(evaluation_steps(steps))
    spans: list[float] = []
    since, at = 1, 0.0
    for done in range(1, steps + 1):
        session.step()
        watched = done in evaluations or done % CHECK_EVERY == 0
        if done == 1 or watched:
            # Waits for the step.
            last = session.loss()
            if done > since:
                spans.append((time.process_time() - at) / (done - since))
        if done in evaluations:
            loss, _ = session.evaluate(data.x_train, data.y_train)
            diverged = not math.isfinite(loss)
            if not diverged:
                curve.append([done, loss])
                if accuracies:
                    accuracy_curve.append([done, *(
                        round(session.evaluate(*part)[1], 6) for part in halves)])
        elif done % CHECK_EVERY == 0:
            diverged = not math.isfinite(last)
        if on_progress and (done % CHECK_EVERY == 0 or done == steps):
            on_progress(done)
        if done == 1 or watched:
            since, at = done, time.process_time()
        if diverged:
            break
    accuracy = None
    if not diverged:
        accuracy = round(session.evaluate(data.x_test, data.y_test)[1], 6)
    session.finish()
    return {
        "final_training_loss": None if diverged else curve[-1][1],
        "test_accuracy": accuracy,
        "curve": curve,
        "diverged": diverged,
        "step_seconds": float(f"{median(spans):.3g}") if spans else None,
        "seconds": round(time.perf_counter() - began, 2),
        **({"accuracy_curve": accuracy_curve} if accuracies else {}),
    }
