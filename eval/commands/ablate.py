"""What each part of `rule` is worth: the rule with the part off beside the whole.

    rotation       no turned axes: every entry is scaled in the parameters' own
    averaging      gradients at the iterate that moves; alignment then has no way to go by, and
                   steers nothing
    alignment      the size of steps stays as it starts
    width          steps of tensors with many inputs are not smaller
    bound          single updates may be larger than the running size
    rescaling      none of the two, and no running size either

For each, on every task of a suite that nothing was chosen on: log(final loss without the part /
final loss of the whole), from the same starts and on the same minibatches, above 0 where the part
helps. The mean and its standard error are over tasks. Both at the rate of `rule`, and each at its
best of a few, chosen for each task on other draws: a part may only be worth another rate.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from eval.commands import cli, learned, pages
from eval.runs.contest import SUITE, TUNING_INSTANCES
from eval.runs.results import shown
from eval.runs.store import Store
from eval.runs.suite_run import SuiteRun, tasks
from eval.runs.workers import Workers

if TYPE_CHECKING:
    from hrnn_opt import LearnedOptimizer


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much is run.

    Attributes:
        numbers: of tasks in the suite; None: all.
        steps: of each run, a multiple of 50.
        factors: of the rule's rate, 1 among them.
        seeds: runs of what is shown.
    """

    numbers: tuple[int, ...] | None
    steps: int
    factors: tuple[float, ...]
    seeds: int


BUDGETS = {
    "smoke": Budget((2,), 50, (1.0,), 2),
    "small": Budget(None, 1000, (0.25, 1.0, 4.0), 3),
    "full": Budget(None, 10_000, (0.0625, 0.25, 1.0, 4.0, 16.0), 5),
}
WHOLE = "rule"
# Of `rule`, as on its card.
RATE = 8e-3
OWN, BEST = "at the rate of `rule`", "each at its best rate"

OPTIONS = flags.FlagValues()
flags.DEFINE_enum("budget", "small", list(BUDGETS), "How much is run.", flag_values=OPTIONS)
flags.DEFINE_integer("processes", 1, "Runs at a time.", lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_string("out", "runs/ablate", "Folder for ablate.md, .json and .png.",
                    flag_values=OPTIONS)
cli.define_store(OPTIONS)
cli.define_json(OPTIONS)


def variants() -> dict[str, Callable[[], LearnedOptimizer]]:
    """The rule, and the rule with each part off, by what is off."""
    from hrnn_opt import Alignment, Averaging, Direction, Rescaling, Rotation

    return {
        WHOLE: lambda: Averaging(Rotation(Alignment(Rescaling(Direction())))),
        "rotation": lambda: Averaging(Alignment(Rescaling(Direction()))),
        "averaging": lambda: Rotation(Alignment(Rescaling(Direction()))),
        "alignment": lambda: Averaging(Rotation(Rescaling(Direction()))),
        "width": lambda: Averaging(Rotation(Alignment(Rescaling(
            Direction(), width_exponent=0.0)))),
        "bound": lambda: Averaging(Rotation(Alignment(Rescaling(Direction(), bounded=False)))),
        "rescaling": lambda: Averaging(Rotation(Alignment(Direction()))),
    }


def weights_files(folder: Path) -> dict[str, str]:
    """Each variant as weights: `rule` by its name, the others by the paths of files made here."""
    from hrnn_opt import Pretrained

    found = {WHOLE: WHOLE}
    for name, make in variants().items():
        if name != WHOLE:
            path = folder / f"rule_without_{name}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            Pretrained.from_network(make(), learning_rate=RATE).save(path)
            found[name] = str(path)
    return found


def report(budget: Budget, store: Store) -> dict[str, Any]:
    """All runs that are missing, and what they say.

    Returns:
        The `tasks`' names, and by what is off and for each of the two ways to set a rate: by task
        and seed the `differences` (log ratios), `mean`, `standard_error` (None for one task), on
        how many tasks it is `better` without the part, and `worse` by a tenth, and the `rates`.
    """
    numbers = budget.numbers or tuple(range(len(tasks(SUITE))))
    files = weights_files(store.folder / "weights")

    def run(name: str, number: int, factor: float, tuning: bool = False) -> SuiteRun:
        seed = {"seed": TUNING_INSTANCES} if tuning else {}
        return SuiteRun(SUITE, number, budget.steps, 1 if tuning else budget.seeds, files[name],
                        learning_rate=None if factor == 1 else factor * RATE, **seed)

    def best(name: str, number: int) -> float:
        if len(budget.factors) == 1:
            return budget.factors[0]
        ends = {factor: learned.losses(store.results([run(name, number, factor, True)])[0])[0, -1]
                for factor in budget.factors}
        return min(ends, key=ends.__getitem__)

    if len(budget.factors) > 1:
        store.results([run(name, number, factor, True) for name in files for number in numbers
                       for factor in budget.factors], "rates")
    factors = {OWN: {name: dict.fromkeys(numbers, 1.0) for name in files},
               BEST: {name: {number: best(name, number) for number in numbers} for name in files}}
    store.results([run(name, number, of_name[name][number]) for of_name in factors.values()
                   for name in files for number in numbers], "parts")
    found: dict[str, Any] = {name: {} for name in files if name != WHOLE}
    for way, of_name in factors.items():
        results = {name: store.results([run(name, number, of_name[name][number])
                                        for number in numbers]) for name in files}
        for name, of_part in found.items():
            differences = [learned.compare(*pair, budget.steps)
                           for pair in zip(results[name], results[WHOLE])]
            of_part[way] = {
                "differences": differences, **learned.summary(differences),
                "rates": [RATE * of_name[name][number] for number in numbers]}
    return {"suite": SUITE, "steps": budget.steps, "seeds": budget.seeds,
            "tasks": [type(tasks(SUITE)[number]).__name__ for number in numbers],
            "without": found}


def markdown(record: dict[str, Any], command: str) -> str:
    """The report as a page, the part that is missed least first."""
    count = len(record["tasks"])
    parts = [f"# `rule` without each of its parts, {record['steps']:,} steps", f"`{command}`", (
        "Final loss without the part over that of the whole, geometric means over tasks of "
        f"`{record['suite']}` ({count}) with a standard error either way; "
        f"{record['seeds']} seeds each.")]
    for way in (OWN, BEST):
        rows = sorted(record["without"].items(), key=lambda item: item[1][way]["mean"])
        parts.append(pages.table(
            [f"off, {way}", "ratio", "better without", "worse by a tenth without"],
            [[name, ratio(of_part[way]), *(f"{of_part[way][key]} of {count}"
                                           for key in ("better", "worse"))]
             for name, of_part in rows]))
    parts.append("![Ratios](ablate.png)")
    names = list(record["without"])
    parts.append(pages.table([f"{OWN}, ratio by task", *names], [
        [task, *(format(math.exp(np.mean(record["without"][name][OWN]["differences"][i])), ".3f")
                 for name in names)] for i, task in enumerate(record["tasks"])]))
    return "\n\n".join(parts) + "\n"


def ratio(one: dict[str, Any]) -> str:
    """The mean as a ratio, and one standard error to each side of it."""
    mean, error = one["mean"], one["standard_error"]
    if error is None:
        return shown(math.exp(mean), ".3f")
    low, high = math.exp(mean - error), math.exp(mean + error)
    return f"{math.exp(mean):.3f} ({low:.3f} to {high:.3f})"


def plot(record: dict[str, Any], path: Path) -> None:
    """A row for each part, with bars of one standard error."""
    from eval.figures import pictures

    names = list(record["without"])
    figure, axes = pictures.panels(1, 1, width=6, height=0.4 * len(names) + 1.2)
    axis, rows = axes[0, 0], np.arange(len(names))[::-1]
    axis.axvline(1, color=pictures.GREY, linewidth=0.8)
    for k, (way, colour) in enumerate(((OWN, pictures.VERMILION), (BEST, pictures.BLUE))):
        of_way = [record["without"][name][way] for name in names]
        middle = np.exp([one["mean"] for one in of_way])
        errors = np.array([one["standard_error"] or 0.0 for one in of_way])
        axis.errorbar(middle, rows - 0.2 * k, fmt="o", markersize=4, color=colour, label=way,
                      xerr=[middle * (1 - np.exp(-errors)), middle * (np.exp(errors) - 1)])
    axis.set_yticks(rows, names)
    axis.set(xscale="log", xlabel="final loss without the part / of the whole")
    axis.legend(frameon=False, fontsize=8)
    pictures.save(figure, path)


def main(argv: list[str]) -> None:
    """The command line."""
    cli.no_arguments(argv)
    cli.need_jax()
    with Workers(OPTIONS.processes, Path(OPTIONS.store) / "compiled") as workers:
        store = Store(OPTIONS.store, SimpleNamespace(fingerprint=None), workers)
        record = {"budget": OPTIONS.budget, **report(BUDGETS[OPTIONS.budget], store)}
    page = markdown(
        record, f"KERAS_BACKEND=jax python -m eval ablate --budget {OPTIONS.budget}")
    pages.publish("ablate", record, page, plot, OPTIONS)
