"""Weights beside those that they started from, or beside an optimizer of Keras as it comes, on
tasks that no meta-training has seen.

For each task and seed, log(loss of the weights / loss of --against), both from the same start and
on the same minibatches, after 1,000 and 10,000 steps: below 0 is better. Losses are shares of those
at the start, plus 1e-6 as in the meta-objective: what is learned by heart counts no further. The
mean is over tasks, each of them the mean over its seeds, and so is its standard error. A loss that
is not finite counts as that of the start.

What is learned by heart may rise by decades from one point to the next. So one more column has
the mean over the last tenth of the steps.

The last column: log(steps to where --against ends / its steps), 0 where that is not reached.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import rich
import rich.table
from absl import flags

import problems
from eval.commands import cli
from eval.runs.optimizers import TODAY
from eval.runs.results import Result
from eval.runs.store import Store, write_json
from eval.runs.suite_run import POINTS, SuiteRun, tasks

# Of a loss relative to the start (Wichrowska et al. 2017, section 4.2).
LEAST = 1e-6
LATE = "the last tenth"

OPTIONS = flags.FlagValues()
flags.DEFINE_list("weights", None, "Names or paths of weights.", required=True,
                  flag_values=OPTIONS)
flags.DEFINE_string("against", "rule", "Name or path of the weights that they are compared to, or "
                    f"one of {', '.join(TODAY)}, untuned.", flag_values=OPTIONS)
flags.DEFINE_string("suite", "small_real_valid", "Suite of the tasks.", flag_values=OPTIONS)
flags.DEFINE_list("tasks", None, "Numbers of tasks in the suite, from 0; all if not given.",
                  flag_values=OPTIONS)
flags.DEFINE_list("steps", ["1000", "10000"], f"Steps to compare at, multiples of the largest "
                  f"over {POINTS}.", flag_values=OPTIONS)
flags.DEFINE_integer("seeds", 3, "Runs of each task.", lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_integer("seed", SuiteRun.seed, "Draws the data, starts and minibatches of all runs.",
                     lower_bound=0, flag_values=OPTIONS)
flags.DEFINE_string("out", None, "Folder for learned.json and learned.png.", flag_values=OPTIONS)
cli.define_store(OPTIONS)
cli.define_json(OPTIONS)


def losses(result: Result) -> np.ndarray:
    """(seeds, points) losses relative to the start, as they are compared."""
    return LEAST + np.array([
        [1.0 if y is None else y for y in curve] for curve in result["curves"]])


def compare(learned: Result, against: Result, step: int, since: int | None = None) -> list[float]:
    """log(loss / loss of the other) of each seed after so many steps; with `since`, its mean over
    the points from there on."""
    points = np.array(learned["steps_of_points"])
    compared = (points >= (step if since is None else since)) & (points <= step)
    return np.log(losses(learned) / losses(against))[:, compared].mean(1).tolist()


def steps_to_reach(learned: Result, against: Result) -> list[float]:
    """log(steps to the other's last loss / all steps) of each seed; 0 where it is not reached."""
    reached = losses(learned) <= losses(against)[:, -1:]
    first = np.where(reached.any(1), reached.argmax(1), reached.shape[1] - 1)
    return np.log((first + 1) / reached.shape[1]).tolist()


def standard_error(values: np.ndarray) -> float | None:
    """Of the mean of (N,); None for one."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def summary(differences: list[list[float]]) -> dict[str, float | int | None]:
    """The mean over tasks of the means over seeds, its standard error (None for one task), and how
    many tasks are better, and worse by more than a tenth."""
    means = np.array([np.mean(of_task) for of_task in differences])
    return {"mean": float(np.mean(means)), "standard_error": standard_error(means),
            "better": int(np.sum(means < 0)), "worse": int(np.sum(means > math.log(1.1)))}


def report(weights: list[str], against: str, suite: str, numbers: list[int], steps: list[int],
           seeds: int, seed: int, store: Store) -> dict[str, Any]:
    """All runs and what they say."""
    def runs(name: str) -> list[SuiteRun]:
        of_name = {"optimizer": name} if name in TODAY else {"weights": name}
        return [SuiteRun(suite, number, max(steps), seeds, seed=seed, **of_name)
                for number in numbers]

    results = {name: store.results(runs(name), name) for name in (against, *weights)}
    rows = {}
    for name in weights:
        pairs = list(zip(results[name], results[against]))
        rows[name] = {
            **{f"{step:,} steps": [compare(*pair, step) for pair in pairs] for step in steps},
            LATE: [compare(*pair, max(steps), math.ceil(0.9 * max(steps))) for pair in pairs],
            "steps to reach": [steps_to_reach(*pair) for pair in pairs]}
    return {
        "suite": suite, "against": against, "seeds": seeds, "seed": seed,
        "seconds": {name: round(sum(result["seconds"] for result in of_name), 1)
                    for name, of_name in results.items()},
        "tasks": [tasks(suite)[number].__class__.__name__ for number in numbers],
        "weights": {
            name: {title: {"differences": of_title, **summary(of_title)}
                   for title, of_title in of_name.items()} for name, of_name in rows.items()},
    }


def plot(found: dict[str, Any], path: Path) -> None:
    """A panel for each column: a row for each task, a colour for each set of weights."""
    from eval.figures import pictures

    titles = list(next(iter(found["weights"].values())))
    names = [*found["tasks"], "mean"]
    figure, axes = pictures.panels(1, len(titles), width=4.5, height=0.3 * len(names) + 1.2,
                                   sharey=True)
    rows = np.arange(len(names))[::-1]
    for axis, title in zip(axes[0], titles):
        axis.axvline(0, color=pictures.GREY, linewidth=0.8)
        for k, (name, of_name) in enumerate(found["weights"].items()):
            seeds = np.array(of_name[title]["differences"])
            means = [*seeds.mean(1), of_name[title]["mean"]]
            errors = [error or 0.0 for error in (
                *map(standard_error, seeds), of_name[title]["standard_error"])]
            axis.errorbar(means, rows - 0.2 * k, xerr=errors, fmt="o", markersize=4,
                          color=(pictures.VERMILION, *pictures.QUIET)[k % 7], label=Path(name).stem)
        axis.set(title=title, xlabel=f"log ratio to {found['against']}")
    axes[0, 0].set_yticks(rows, names)
    if len(found["weights"]) > 1:
        axes[0, 0].legend(frameon=False, fontsize=8)
    pictures.save(figure, path, vector=True)


def _shown(mean: float, error: float | None) -> str:
    return f"{mean:+.3f} ({math.nan if error is None else error:.3f})"


def main(argv: list[str]) -> None:
    """The command line."""
    cli.no_arguments(argv)
    cli.need_jax()
    if OPTIONS.suite not in problems.suite_names():
        raise cli.UsageError(f"--suite: there is no {OPTIONS.suite!r}; there are "
                             f"{', '.join(problems.suite_names())}")
    steps = sorted(cli.integers(OPTIONS, "steps", 1))
    if max(steps) % POINTS or any(step % (max(steps) // POINTS) for step in steps):
        raise cli.UsageError(f"--steps must be multiples of the largest over {POINTS}, and the "
                             f"largest one of {POINTS}; got {steps}")
    count = len(tasks(OPTIONS.suite))
    numbers = list(range(count)) if OPTIONS.tasks is None else cli.integers(OPTIONS, "tasks", 0)
    if max(numbers) >= count:
        raise cli.UsageError(f"--tasks must be below {count}, got {max(numbers)}")
    for name in (*OPTIONS.weights, *({OPTIONS.against} - set(TODAY))):
        cli.check_weights(name)
    found = report(list(OPTIONS.weights), OPTIONS.against, OPTIONS.suite, numbers, steps,
                   OPTIONS.seeds, OPTIONS.seed,
                   Store(OPTIONS.store, SimpleNamespace(fingerprint=None)))
    if OPTIONS.out:
        out = Path(OPTIONS.out)
        write_json(out / "learned.json", found)
        plot(found, out / "learned.png")
    if OPTIONS.json:
        cli.print_json(found)
        return
    for name, of_name in found["weights"].items():
        table = rich.table.Table(
            "task", *of_name, title=f"{Path(name).stem} beside {found['against']}: log ratios")
        for i, task in enumerate(found["tasks"]):
            cells = []
            for of_step in of_name.values():
                values = np.array(of_step["differences"][i])
                cells.append(_shown(values.mean(), standard_error(values)))
            table.add_row(task, *cells)
        table.add_row("mean", *(
            _shown(s["mean"], s["standard_error"]) for s in of_name.values()))
        table.add_row("better, worse by a tenth", *(
            f"{s['better']}, {s['worse']} of {len(found['tasks'])}" for s in of_name.values()))
        rich.print(table)
