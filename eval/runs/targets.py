"""Time to a target, and performance profiles of it.

After Dahl et al. 2023, "Benchmarking Neural Network Training Algorithms" (AlgoPerf); profiles are
those of Dolan and Moré 2002, "Benchmarking optimization software with performance profiles".

Dimension letters: E optimizers, T tasks, S seeds, P points of a curve.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from eval.runs.results import Result

# Baselines set a target by where they are after this share of the steps: all then have a third as
# many again to get there.
TARGET_SHARE = 0.75
# A profile's score is its mean from 1 to this many times the fastest one's time.
LARGEST_RATIO = 4.0


@dataclasses.dataclass(frozen=True, eq=False)
class Curves:
    """What one optimizer does on one task.

    Attributes:
        steps: (P,) rising numbers of steps.
        losses: (S, P) training losses, infinite where not finite.
        step_seconds: CPU seconds of a step, the median over runs; None where none was timed.
        accuracies: (S,) on data not trained on, NaN after divergence; None where there are none.
    """

    steps: np.ndarray
    losses: np.ndarray
    step_seconds: float | None = None
    accuracies: np.ndarray | None = None


def of_runs(results: Sequence[Result]) -> Curves:
    """The curves of `eval.runs.run.Run` results, one for each seed."""
    steps = sorted({step for result in results for step, _ in result["curve"]})
    steps = steps or [results[0]["steps"]]
    curves = [dict(map(tuple, result["curve"])) for result in results]
    return Curves(
        np.array(steps), np.array([[curve.get(step, math.inf) for step in steps]
                                   for curve in curves]),
        _median_seconds(results),
        np.array([math.nan if r["test_accuracy"] is None else r["test_accuracy"] for r in results]))


def of_suite_run(result: Result) -> Curves:
    """Those of one `eval.runs.suite_run.SuiteRun` result, each instance a seed."""
    return Curves(
        np.array(result["steps_of_points"]),
        np.array([[math.inf if y is None else y for y in curve] for curve in result["curves"]]),
        _median_seconds([result]))


def _median_seconds(results: Sequence[Result]) -> float | None:
    timed = [seconds for r in results if (seconds := r.get("step_seconds")) is not None]
    return float(np.median(timed)) if timed else None


def target(baselines: Mapping[str, Curves]) -> tuple[float, str]:
    """The loss to be reached, and who set it: the lowest of the baselines' median losses at their
    last point up to `TARGET_SHARE` of the steps (the first point where none is so early)."""
    def at(curves: Curves) -> float:
        early = int(np.sum(curves.steps <= TARGET_SHARE * curves.steps[-1]))
        return float(np.median(curves.losses[:, max(early - 1, 0)]))

    name = min(baselines, key=lambda name: at(baselines[name]))
    return at(baselines[name]), name


def steps_to(curves: Curves, loss: float) -> np.ndarray:
    """(S,) steps at which each seed first has the loss, infinite where it never has.

    Between two points it is where the line through them, on two log axes, meets it; before the
    first point nothing is known, and that point counts.
    """
    found = np.full(len(curves.losses), math.inf)
    if not math.isfinite(loss):
        return found
    for i, losses in enumerate(curves.losses):
        reached = np.flatnonzero(losses <= loss)
        if not reached.size:
            continue
        k = int(reached[0])
        found[i] = curves.steps[k]
        if k and math.isfinite(losses[k - 1]) and losses[k] > 0:
            share = math.log(losses[k - 1] / loss) / math.log(losses[k - 1] / losses[k])
            found[i] = curves.steps[k - 1] * (curves.steps[k] / curves.steps[k - 1]) ** share
    return found


def ratios(times: np.ndarray) -> np.ndarray:
    """(E, T) times over the shortest of each task, infinite where the target is not reached."""
    best = times.min(axis=0)
    return np.where(np.isfinite(times), times / np.where(np.isfinite(best), best, 1.0), math.inf)


def profile(times: np.ndarray, within: np.ndarray) -> np.ndarray:
    """(E, len(within)) the share of tasks on which each is within so many times the shortest.

    Args:
        times: (E, T), infinite where the target is not reached.
        within: ratios of at least 1.
    """
    return (ratios(times)[:, :, None] <= within).mean(axis=1)


def score(times: np.ndarray) -> np.ndarray:
    """(E,) the mean of each profile over ratios from 1 to `LARGEST_RATIO`, in [0, 1]."""
    return (np.clip(LARGEST_RATIO - ratios(times), 0, None) / (LARGEST_RATIO - 1)).mean(axis=1)


def score_interval(
    times: Sequence[np.ndarray], draws: int = 1000, seed: int = 0,
) -> np.ndarray:
    """(E, 2) from the 5th to the 95th percentile of the score, with tasks, and seeds on each task,
    drawn anew with replacement. All optimizers have the seeds that are drawn: a seed is a start and
    an order of data that they share.

    Args:
        times: T arrays (E, S); a task's time is the median over its seeds, of which others may have
            other numbers.
        draws: how many.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    medians = np.stack([
        median_times(of_task[:, rng.integers(of_task.shape[1], size=(draws, of_task.shape[1]))])
        for of_task in times], axis=2).swapaxes(0, 1)
    drawn = rng.integers(len(times), size=(draws, len(times)))
    found = [score(of_draw[:, chosen]) for of_draw, chosen in zip(medians, drawn)]
    return np.quantile(found, [0.05, 0.95], axis=0).T


def median_times(times: np.ndarray) -> np.ndarray:
    """(...) the medians over seeds (..., S); of an even number the longer of the two in the middle,
    which need not be finite."""
    return np.sort(times, axis=-1)[..., times.shape[-1] // 2]
