"""Weights, untuned, beside the baselines of today, tuned and untuned: on which tasks, from which
runs, and what these say.

A task has a `name`, a `group` of tasks, `steps`, `seeds` that are shown, a `store`, `runs` and
`curves`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from eval.runs import grid_search, networks, optimizers, practice, targets
from eval.runs.results import Result
from eval.runs.run import Run
from eval.runs.store import Storable, Store
from eval.runs.suite_run import SuiteRun, tasks
from eval.runs.targets import Curves
from eval.runs.torch_step import TorchStep

SUITE, PRACTICE, MNIST = "small_real_valid", "practice", "MNIST"
# Rates are chosen on other draws than those that are shown.
TUNING_SEED, TUNING_INSTANCES = 100, 2000
WEIGHTS, UNTUNED, TUNED = "weights", "untuned", "tuned"
# What a model and its gradient cost where the optimizer's step is measured by itself: a step of
# this one, whose own part is a few operations for each tensor.
PLAIN, PLAIN_RATE = "sgd", 1e-3


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much is run.

    Attributes:
        numbers: of tasks in the suite; None: all.
        suite_steps: of these, a multiple of 50.
        networks: of MNIST.
        steps: of the fully connected ones.
        conv_steps: of the convolutional ones.
        examples: of MNIST's training set; None: all.
        practice: names of tasks as users have them.
        practice_part: of these, the steps are this many times what the task says,
        practice_most: but no more than so many; None: no bound.
        rates: each optimizer's grid, times its factor in `optimizers.RATE_FACTORS`.
        tuning_seeds: runs of each rate and schedule.
        suite_seeds: runs of what is shown, of the suite, whose runs are small.
        seeds: runs of what is shown, of other tasks.
    """

    numbers: tuple[int, ...] | None
    suite_steps: int
    networks: tuple[str, ...]
    steps: int
    conv_steps: int
    examples: int | None
    practice: tuple[str, ...]
    practice_part: float
    practice_most: int | None
    rates: tuple[float, ...]
    tuning_seeds: int
    suite_seeds: int
    seeds: int


BUDGETS = {
    "smoke": Budget(numbers=(2,), suite_steps=50, networks=("mlp_relu",), steps=100, conv_steps=2,
                    examples=600, practice=("ratings",), practice_part=0.01,
                    practice_most=None, rates=(1e-2,), tuning_seeds=1, suite_seeds=2, seeds=2),
    "small": Budget(numbers=None, suite_steps=1000, networks=networks.PAPER, steps=1000,
                    conv_steps=200, examples=10_000,
                    practice=("play_lstm", "ratings", "shuttle", "burgers", "tuned_layer",
                              "tuned_adapters", "letters_resnet18"),
                    practice_part=1.0, practice_most=200,
                    rates=(1e-3, 3.16e-3, 1e-2, 3.16e-2, 1e-1),
                    tuning_seeds=1, suite_seeds=5, seeds=3),
    "full": Budget(numbers=None, suite_steps=10_000, networks=networks.PAPER, steps=10_000,
                   conv_steps=10_000, examples=None, practice=tuple(practice.TASKS),
                   practice_part=10.0, practice_most=None, rates=grid_search.LEARNING_RATES,
                   tuning_seeds=2, suite_seeds=5, seeds=5),
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """An optimizer that takes part.

    Attributes:
        optimizer: of `eval.runs.optimizers`.
        schedule: of its learning rate.
        weights: of the learned one.
        tuned: whether its rate is chosen for each task from the grid.
    """

    optimizer: str
    schedule: str = "constant"
    weights: str | None = None
    tuned: bool = False

    @property
    def name(self) -> str:
        """As tables show it; no two have the same."""
        if self.weights:
            return Path(self.weights).stem
        return f"{self.optimizer}, {self.schedule}" if self.tuned else self.optimizer

    @property
    def group(self) -> str:
        """`WEIGHTS`, or the group of baselines that it is of."""
        return WEIGHTS if self.weights else TUNED if self.tuned else UNTUNED


class Task(Protocol):
    """What is trained, for how long, and where the results are kept."""

    name: str
    group: str
    steps: int
    seeds: int
    store: Store

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Those of what is trained."""
        ...

    def runs(self, entry: Entry, rate: float | None, count: int,
             tuning: bool = False) -> Sequence[Storable]:
        """So many runs, with seeds of their own where they are for tuning."""
        ...

    def curves(self, results: list[Result]) -> Curves:
        """What the results of these runs say."""
        ...


@dataclasses.dataclass(frozen=True)
class SuiteTask:
    """A problem of a suite, the objective on its training data relative to the start."""

    suite: str
    number: int
    steps: int
    seeds: int
    store: Store

    @property
    def name(self) -> str:
        return type(tasks(self.suite)[self.number]).__name__

    @property
    def group(self) -> str:
        return self.suite

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tasks(self.suite)[self.number].shapes

    def runs(self, entry: Entry, rate: float | None, count: int,
             tuning: bool = False) -> list[SuiteRun]:
        seed = {"seed": TUNING_INSTANCES} if tuning else {}
        return [SuiteRun(self.suite, self.number, self.steps, count, entry.weights,
                         optimizer=entry.optimizer, learning_rate=rate, schedule=entry.schedule,
                         **seed)]

    def curves(self, results: list[Result]) -> Curves:
        return targets.of_suite_run(results[0])


@dataclasses.dataclass(frozen=True)
class NetworkTask:
    """A Keras model on data with others to test on, the loss on its training set."""

    name: str
    group: str
    steps: int
    seeds: int
    store: Store

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        model = Run(self.name, PLAIN, self.steps).model(self.store.data)
        return tuple(tuple(variable.shape) for variable in model.trainable_variables)

    def runs(self, entry: Entry, rate: float | None, count: int, tuning: bool = False) -> list[Run]:
        first = TUNING_SEED if tuning else 0
        return [Run(self.name, entry.optimizer, self.steps, rate, entry.schedule, seed=seed,
                    weights=entry.weights) for seed in range(first, first + count)]

    def curves(self, results: list[Result]) -> Curves:
        return targets.of_runs(results)


def entries(weights: Iterable[str]) -> list[Entry]:
    """All that take part: the weights, the baselines as they come, and tuned ones."""
    return [
        *(Entry(optimizers.LEARNED, weights=name) for name in weights),
        *(Entry(name) for name in optimizers.TODAY),
        *(Entry(name, schedule, tuned=True) for name in optimizers.TODAY
          for schedule in optimizers.SCHEDULES)]


def measure(task: Task, taking_part: Sequence[Entry], budget: Budget) -> dict[str, Any]:
    """Run on one task what is missing.

    Returns:
        The task's `name`, `group`, `steps` and `seeds`; its `target`, the loss (None if no tuned
        baseline gets anywhere), and `target_from`, who set it; and `entries`, by name: `group`,
        `learning_rate`, `at_edge` (whether that is the lowest or highest of the grid), by seed
        `steps` and `seconds` to the target (None: not reached), final `losses` (None: diverged) and
        `accuracies` (None: there are none), and `step_seconds`, the median over all runs of the
        optimizer on the task; for one of PyTorch the sum of a plain step on the task and of its
        own by itself. `seconds` and `step_seconds` are None where a run has but one step.
    """
    def grid(entry: Entry) -> list[float]:
        factor = optimizers.RATE_FACTORS.get(entry.optimizer, 1.0)
        return [rate * factor for rate in sorted(budget.rates)]

    def tried(entry: Entry, rate: float) -> Sequence[Storable]:
        return task.runs(entry, rate, budget.tuning_seeds, tuning=True)

    timings: dict[tuple[str, str | None], list[float]] = {}

    def read(entry: Entry, runs: Sequence[Storable]) -> Curves:
        curves = task.curves(task.store.results(runs))
        if curves.step_seconds is not None and entry.optimizer not in optimizers.TORCH:
            timings.setdefault((entry.optimizer, entry.weights), []).append(curves.step_seconds)
        return curves

    def best(entry: Entry) -> float:
        ends = {rate: float(np.median(read(entry, tried(entry, rate)).losses[:, -1]))
                for rate in grid(entry)}
        return min(ends, key=ends.__getitem__)

    tuned = [entry for entry in taking_part if entry.tuned]
    # All at once, so that no process waits for another's search.
    task.store.results([run for entry in tuned for rate in grid(entry)
                        for run in tried(entry, rate)], f"{task.name}, rates")
    rates = {entry: best(entry) if entry.tuned else None for entry in taking_part}
    runs = {entry: task.runs(entry, rates[entry], task.seeds) for entry in taking_part}
    task.store.results([run for of_one in runs.values() for run in of_one], task.name)
    found = {entry: read(entry, of_one) for entry, of_one in runs.items()}
    for name in {entry.optimizer for entry in taking_part} & set(optimizers.TORCH):
        plain = task.curves(task.store.results(
            task.runs(Entry(PLAIN), PLAIN_RATE, 1), f"{task.name}, a plain step"))
        (alone,) = task.store.results(
            [TorchStep(name, task.shapes)], f"{task.name}, a step of {name}")
        if plain.step_seconds is not None:
            timings[name, None] = [plain.step_seconds + alone["step_seconds"]]
    loss, setter = targets.target({entry.name: found[entry] for entry in tuned})
    rows = {}
    for entry, curves in found.items():
        steps = targets.steps_to(curves, loss)
        # A step costs the same at every rate, and the machine is not always as busy.
        timed = timings.get((entry.optimizer, entry.weights))
        seconds = float(np.median(timed)) if timed else None
        rate, of_grid = rates[entry], grid(entry)
        rows[entry.name] = {
            "group": entry.group, "learning_rate": rate,
            "at_edge": len(of_grid) > 1 and rate in (of_grid[0], of_grid[-1]),
            "steps": _numbers(steps),
            "seconds": None if seconds is None else _numbers(steps * seconds),
            "losses": _numbers(curves.losses[:, -1]),
            "accuracies": None if curves.accuracies is None else _numbers(curves.accuracies),
            "step_seconds": seconds}
    return {"name": task.name, "group": task.group, "steps": task.steps, "seeds": task.seeds,
            "target": loss if math.isfinite(loss) else None, "target_from": setter,
            "entries": rows}


def _numbers(values: np.ndarray) -> list[float | None]:
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]


# What one entry is compared to another by, and whether more of it is worse.
MEASURES = {"steps": "steps to the target", "seconds": "seconds to the target",
            "losses": "final training loss", "accuracies": "error on other data"}
# Of what has a part in a mean of ratios: a loss may be 0.
_LEAST = 1e-12


def value(row: dict[str, Any], measure: str) -> float | None:
    """The median over seeds, infinite where it has none; None where there is no such thing. Lower
    is better."""
    values = row[measure]
    if values is None:
        return None
    if measure == "accuracies":
        values = [None if y is None else 1 - y for y in values]
    return float(targets.median_times(np.array([math.inf if y is None else y for y in values])))


def comparisons(found: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Weights beside the best other of each group, on every task and by every measure.

    Returns:
        `task`, `group`, `measure`, `ours`, `other`, `theirs` and `ratio` (None: not finite); those
        behind by most come first, and what cannot be compared is left out.
    """
    rows = []
    for task in found:
        ours = task["entries"][name]
        for group in (UNTUNED, TUNED):
            for measure in MEASURES:
                known = {other: y for other, row in task["entries"].items()
                         if row["group"] == group and (y := value(row, measure)) is not None}
                mine = value(ours, measure)
                if mine is None or not known:
                    continue
                best = min(known, key=known.__getitem__)
                if not math.isfinite(mine) and not math.isfinite(known[best]):
                    continue
                rows.append({"task": task["name"], "group": group, "measure": measure,
                             "ours": mine, "other": best, "theirs": known[best],
                             "ratio": _ratio(mine, known[best])})
    rows.sort(key=lambda row: -row["ratio"])
    return [{**row, **{key: row[key] if math.isfinite(row[key]) else None
                       for key in ("ours", "theirs", "ratio")}, "behind": row["ratio"] > 1}
            for row in rows]


def beside_each(found: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Weights beside each baseline over all tasks: `other`, `group`, on how many tasks one of them
    reaches the target `alone` or the `other_alone`, and by measure the geometric mean of ours over
    theirs where both are finite, `ratios` (None: nowhere), and on how many tasks, `tasks`.
    """
    def pairs(other: str, measure: str) -> np.ndarray:
        """(T, 2) ours and the other's, NaN where there is no such thing."""
        return np.array([[value(task["entries"][one], measure) for one in (name, other)]
                         for task in found], "float64")

    rows = []
    for other, row in found[0]["entries"].items():
        if row["group"] == WEIGHTS:
            continue
        ours, theirs = np.isfinite(pairs(other, "steps")).T
        both = {}
        for measure in ("steps", "seconds", "losses"):
            of_one = pairs(other, measure)
            both[measure] = np.maximum(of_one[np.isfinite(of_one).all(axis=1)], _LEAST)
        rows.append({
            "other": other, "group": row["group"],
            "alone": int(np.sum(ours & ~theirs)), "other_alone": int(np.sum(theirs & ~ours)),
            "ratios": {
                measure: float(np.exp(np.mean(np.log(of_one[:, 0] / of_one[:, 1]))))
                if len(of_one) else None for measure, of_one in both.items()},
            "tasks": {measure: len(of_one) for measure, of_one in both.items()}})
    return rows


def _ratio(ours: float, theirs: float) -> float:
    if ours == theirs:
        return 1.0
    return ours / theirs if theirs > 0 and math.isfinite(ours) else math.inf


def profiles(found: list[dict[str, Any]], group: str, measure: str, within: np.ndarray,
             ) -> dict[str, dict[str, Any]]:
    """The performance profiles of the weights and a group of baselines.

    Args:
        found: what `measure` gives for each task.
        group: of the baselines.
        measure: `"steps"` or `"seconds"`; entries that were not timed on all tasks are left out.
        within: ratios of the profiles.

    Returns:
        By name: `profile`, (len(within),), `score`, its 90 % `interval`, and on how many tasks the
        target was `reached`.
    """
    names = [name for name, row in found[0]["entries"].items()
             if row["group"] in (WEIGHTS, group)
             and all(task["entries"][name][measure] is not None for task in found)]
    if not names:
        return {}
    times = [np.array([[math.inf if y is None else y for y in task["entries"][name][measure]]
                       for name in names]) for task in found]
    medians = np.stack([targets.median_times(of_task) for of_task in times], axis=1)
    shares, scores = targets.profile(medians, within), targets.score(medians)
    intervals = targets.score_interval(times)
    return {name: {"profile": [round(float(y), 4) for y in shares[i]],
                   "score": round(float(scores[i]), 4),
                   "interval": [round(float(y), 4) for y in intervals[i]],
                   "reached": int(np.isfinite(medians[i]).sum())}
            for i, name in enumerate(names)}
