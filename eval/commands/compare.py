"""Weights, untuned, beside the baselines of today, tuned and untuned: time to a target.

The tasks are ten problems (suite small_real_valid) and, with `--tasks suite,practice`, eleven Keras
models as users have them; but for one line of the table at the page's end, nothing was chosen on
either. With --data_dir there are four networks on MNIST. The baselines are Adam, AdamW,
schedule-free AdamW, Prodigy, Muon and SOAP; for each task, each of them has the same number of runs
to choose its rate by, at a constant rate and at one that falls by a cosine. A task's target is the
lowest median loss that tuned baselines have after three quarters of the steps. Measured are steps
and seconds to the target, final losses and, where there is one, accuracy on other data; performance
profiles are over all tasks.

Results go to the store, so that a run that was killed goes on where it was. Tasks of other runs,
from a compare.json each, have a part with --joined. --out gets compare.md, compare.json and
compare.png. What is behind stands first.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import math
import platform
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from absl import flags

from eval.commands import cli, pages
from eval.runs import contest, optimizers, practice, targets
from eval.runs.contest import BUDGETS, MEASURES, TUNED, UNTUNED
from eval.runs.data import Data
from eval.runs.results import shown
from eval.runs.store import Store
from eval.runs.suite_run import tasks
from eval.runs.workers import Workers

OPTIONS = flags.FlagValues()
flags.DEFINE_enum("budget", "small", list(BUDGETS), "How much is run.", flag_values=OPTIONS)
flags.DEFINE_list("weights", ["rule"], "Names or paths of weights.", flag_values=OPTIONS)
flags.DEFINE_list("tasks", ["suite"], "Of `suite`, `practice`, and names of single ones of the "
                  "latter's: " + ", ".join(practice.TASKS) + ".", flag_values=OPTIONS)
flags.DEFINE_string("data_dir", None, "Folder of the four MNIST files, as downloaded. Without it "
                    "they have no part.", flag_values=OPTIONS)
flags.DEFINE_list("joined", [], "Files compare.json of the same weights and budget, whose tasks "
                  "are taken as they are.", flag_values=OPTIONS)
flags.DEFINE_integer("processes", 1, "Runs at a time.", lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_string("out", "runs/compare", "Folder for compare.md, .json and .png.",
                    flag_values=OPTIONS)
cli.define_store(OPTIONS)
cli.define_json(OPTIONS)

# Ratios that the profiles are drawn at.
WITHIN = np.geomspace(1, 16, 81)
TIMES = ("steps", "seconds")
# By group of tasks, in the order of pages: what was seen of it by whoever chose the constants of
# `rule`, and for what.
LOOKED_AT = {
    contest.SUITE: "nothing was chosen on it",
    contest.PRACTICE: "as which matrix attention's kernels are turned was chosen on "
                      "letters_transformer and play_transformer (lab/54); nothing else on any",
    contest.MNIST: "axes, averaging, bound, width, delay, target and rate of alignment were chosen "
                   "in sight of it (the card of `rule`; lab/16 to lab/33), seeds 0 to 2",
}


def contest_tasks(
    budget: contest.Budget, groups: Collection[str], images: Data | None,
    store: Callable[[Any], Store],
) -> Iterator[contest.Task]:
    """The tasks of a budget.

    Args:
        budget: of them.
        groups: of `suite`, `practice`, and names of single tasks of the latter's.
        images: MNIST, or None to leave it out.
        store: makes the store of what is trained on some data.
    """
    if "suite" in groups:
        problems = store(SimpleNamespace(fingerprint=None))
        for number in budget.numbers or tuple(range(len(tasks(contest.SUITE)))):
            yield contest.SuiteTask(
                contest.SUITE, number, budget.suite_steps, budget.suite_seeds, problems)
    for name, task in practice.TASKS.items():
        if name in groups or ("practice" in groups and name in budget.practice):
            steps = max(2, round(task.steps * budget.practice_part))
            yield contest.NetworkTask(
                name, contest.PRACTICE, min(steps, budget.practice_most or steps), budget.seeds,
                store(task.data()))
    if images:
        image_store = store(images)
        for name in budget.networks:
            steps = budget.conv_steps if name.startswith("conv") else budget.steps
            yield contest.NetworkTask(name, contest.MNIST, steps, budget.seeds, image_store)


def about(weights: list[str], budget: str) -> dict[str, Any]:
    """What two reports must have the same of, to be joined."""
    return {
        "budget": budget,
        "weights": [contest.Entry(optimizers.LEARNED, weights=name).name for name in weights],
        "processor": platform.machine(),
        "libraries": {
            name: {"from": path, "version": f"{library} {importlib.metadata.version(library)}"}
            for name, (library, path) in optimizers.LIBRARIES.items()}}


def tasks_of(path: str, expected: dict[str, Any]) -> list[dict[str, Any]]:
    """The tasks of another report, which has the `expected`.

    Raises:
        UsageError: the file cannot be read, is no report, or has something else.
    """
    try:
        record = json.loads(Path(path).read_text())
        found = record["tasks"]
        for name, value in expected.items():
            if record[name] != value:
                raise cli.UsageError(
                    f"--joined: {path} has {name} {record[name]}, and this run has {value}")
        # Tasks that a report cannot be made of are found out before anything is run.
        report(sorted(found, key=_place), expected)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise cli.UsageError(f"--joined: {path} is no compare.json that can be read") from error
    return found


def report(found: list[dict[str, Any]], known: dict[str, Any]) -> dict[str, Any]:
    """All that JSON has, from what `contest.measure` gave for each task, and `about`."""
    names = known["weights"]
    return {
        **known,
        "comparisons": {name: contest.comparisons(found, name) for name in names},
        "beside_each": {name: contest.beside_each(found, name) for name in names},
        "within": [round(float(x), 4) for x in WITHIN],
        "profiles": {
            group: {measure: contest.profiles(found, group, measure, WITHIN) for measure in TIMES}
            for group in (UNTUNED, TUNED)},
        "tasks": found,
    }


def _place(task: dict[str, Any]) -> tuple[int, int]:
    """Where a task stands on a page, whether it was joined or not."""
    names = list(practice.TASKS) if task["group"] == contest.PRACTICE else [task["name"]]
    return list(LOOKED_AT).index(task["group"]), names.index(task["name"])


def markdown(record: dict[str, Any], command: str) -> str:
    """The report as a page."""
    parts = [f"# Time to a target, budget `{record['budget']}`", f"`{command}`"]
    for name, rows in record["comparisons"].items():
        parts += [f"## Where `{name}` is behind", *_behind(rows)]
    parts += ["## Scores", (
        "Of steps, and of seconds, to the target: the mean height of the performance profile "
        f"from 1 to {targets.LARGEST_RATIO:g} times the fastest, 1 for who is fastest everywhere; "
        "in brackets from the 5th to the 95th percentile, tasks and seeds drawn anew. The "
        "weights have no tuning in either table.")]
    for group, measures in record["profiles"].items():
        parts.append(_scores(group, measures, len(record["tasks"])))
    parts.append("![Performance profiles](compare.png)")
    for name, rows in record["beside_each"].items():
        parts += [f"## `{name}` beside each", (
            "Geometric means of its steps and seconds to the target over the other's, where both "
            "reach it, and of final training losses where both have one; below 1 it is ahead. In "
            "brackets on how many tasks."), _beside_each(rows)]
    for task in record["tasks"]:
        title = f"{task['group']}, {task['steps']:,} steps, {task['seeds']} seeds"
        parts += [f"## {task['name']} ({title})", (
            f"Target: {shown(task['target'], missing='none')}, set by {task['target_from']}. "
            "Medians over seeds, and the lowest and highest."), _entries(task)]
    parts += ["## What was looked at", pages.table(
        ["tasks", "in choosing `rule`", "in choosing the baselines' rates"],
        [[group, LOOKED_AT[group], "other seeds of the same tasks"]
         for group in dict.fromkeys(task["group"] for task in record["tasks"])])]
    parts += ["## Protocol", _protocol(record["budget"]), pages.table(
        ["baseline", "from", "version"],
        [[name, f"`{one['from']}`", one["version"]]
         for name, one in record["libraries"].items()])]
    return "\n\n".join(parts) + "\n"


def _behind(rows: list[dict[str, Any]]) -> list[str]:
    counts = []
    for group in (UNTUNED, TUNED):
        for measure, title in MEASURES.items():
            of_one = [row for row in rows if (row["group"], row["measure"]) == (group, measure)]
            if of_one:
                behind = sum(row["behind"] for row in of_one)
                counts.append([f"best {group}", title, f"{behind} of {len(of_one)}"])
    lines = [[row["task"], MEASURES[row["measure"]], f"{row['other']} ({row['group']})",
              shown(row["ours"], missing="not reached"), shown(row["theirs"]),
              shown(row["ratio"], ".2f", "-")] for row in rows if row["behind"]]
    listed = pages.table(["task", "by", "best other", "its own", "the other's", "ratio"], lines)
    return [pages.table(["beside, on each task", "by", "behind on"], counts),
            listed if lines else "It is behind nowhere."]


def _scores(group: str, measures: dict[str, dict[str, Any]], count: int) -> str:
    def cell(one: dict[str, Any] | None) -> str:
        if one is None:
            return "not timed"
        low, high = one["interval"]
        return f"{one['score']:.2f} ({low:.2f} to {high:.2f})"

    steps, seconds = (measures[measure] for measure in TIMES)
    order = sorted(steps, key=lambda name: -steps[name]["score"])
    return pages.table(
        [f"weights, and {group} baselines", "steps", "seconds", "target reached"],
        [[name, cell(steps[name]), cell(seconds.get(name)),
          f"{steps[name]['reached']} of {count}"] for name in order])


def _beside_each(rows: list[dict[str, Any]]) -> str:
    def cell(row: dict[str, Any], measure: str) -> str:
        count = row["tasks"][measure]
        return f"{row['ratios'][measure]:.2f} ({count})" if count else "-"

    return pages.table(
        ["beside", "", "steps", "seconds", "final loss", "it alone reaches it", "the other alone"],
        [[row["other"], row["group"],
          *(cell(row, measure) for measure in row["tasks"]), row["alone"], row["other_alone"]]
         for row in rows])


def _entries(task: dict[str, Any]) -> str:
    def spread(values: list[float | None] | None, form: str, missing: str) -> str:
        if values is None:
            return "-"
        # What was not reached, or diverged, is the highest.
        ordered = sorted(values, key=lambda y: math.inf if y is None else y)
        low, middle, high = (shown(y, form, missing)
                             for y in (ordered[0], ordered[len(ordered) // 2], ordered[-1]))
        return middle if low == high else f"{middle} ({low} to {high})"

    lines = []
    for name, row in task["entries"].items():
        rate = shown(row["learning_rate"], "g", "its own")
        lines.append([
            name, row["group"], f"{rate}, edge" if row["at_edge"] else rate,
            spread(row["steps"], ",.0f", "not reached"),
            spread(row["seconds"], ".3g", "not reached"),
            spread(row["losses"], "#.3g", "diverged"),
            spread(row["accuracies"], ".4f", "diverged"),
            "-" if row["step_seconds"] is None else f"{1000 * row['step_seconds']:.3g}"])
    return pages.table(["optimizer", "", "rate", "steps", "seconds", "final loss", "test accuracy",
                   "ms a step"], lines)


def _protocol(name: str) -> str:
    budget = BUDGETS[name]
    rates = ", ".join(f"{rate:g}" for rate in budget.rates)
    factors = "; ".join(f"{one}'s are {factor:g} times these"
                        for one, factor in optimizers.RATE_FACTORS.items())
    runs = len(budget.rates) * len(optimizers.SCHEDULES) * budget.tuning_seeds
    return (
        f"Rates: {rates} ({factors}), fixed beforehand; each baseline has {runs} runs a task to "
        f"choose by, the lowest final training loss ({budget.tuning_seeds} a rate and schedule, "
        "on seeds that are not shown). A constant rate and a cosine count as two entries. `edge`: "
        "the best rate is the grid's lowest or highest. A target is the lowest median loss of the "
        f"tuned baselines at their last point up to {targets.TARGET_SHARE:g} of the steps. "
        f"Losses of {contest.SUITE} are on training data relative to the start, and it has no "
        "other data; others are those of a Keras model on its training set. Steps to the target "
        "are read off a line through the points of a curve on log axes. Seconds are steps times "
        "the median CPU seconds of a step of that optimizer on that task, on one thread, without "
        "compiling and evaluation. SOAP's steps run in PyTorch, one operation after the other, and "
        "are called from JAX. What the call costs is not counted: a step of SOAP is one of SGD on "
        "the task, on JAX, and SOAP's own by itself, on PyTorch, on random gradients.")


def plot(record: dict[str, Any], path: Path) -> None:
    """The profiles: a row for steps and one for seconds, a column for each group."""
    from eval.figures import pictures

    figure, axes = pictures.panels(2, 2, width=5.2, sharex=True, sharey=True)
    colours = dict(zip(optimizers.TODAY, pictures.QUIET))
    for column, (group, measures) in zip(axes.T, record["profiles"].items()):
        for axis, measure in zip(column, TIMES):
            for name, one in measures[measure].items():
                ours = name in record["weights"]
                axis.step(
                    record["within"], one["profile"], where="post", label=name,
                    color=pictures.VERMILION if ours else colours[name.split(",")[0]],
                    linestyle="--" if name.endswith("constant") else "-",
                    linewidth=2.2 if ours else 1.3, zorder=3 if ours else 2)
            axis.set(xscale="log", ylim=(-0.02, 1.02), title=f"{measure}, beside {group}")
        column[0].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
        column[-1].set_xlabel("times the fastest one's")
    for axis in axes[:, 0]:
        axis.set_ylabel("share of tasks")
    pictures.save(figure, path)


def command(found: list[dict[str, Any]], options: flags.FlagValues) -> str:
    """The command that gives the same, if nothing is joined."""
    groups = {task["group"] for task in found}
    names = [task["name"] for task in found if task["group"] == contest.PRACTICE]
    if sorted(names) == sorted(BUDGETS[options.budget].practice):
        names = ["practice"]
    if contest.SUITE in groups:
        names = ["suite", *names]
    parts = [f"KERAS_BACKEND=jax python -m eval compare --budget {options.budget} "
             f"--weights {','.join(options.weights)}"]
    if names != ["suite"]:
        parts.append(f"--tasks {','.join(names)}")
    if contest.MNIST in groups:
        parts.append("--data_dir MNIST")
    return " ".join(parts)


def main(argv: list[str]) -> None:
    """The command line."""
    cli.no_arguments(argv)
    cli.need_jax()
    for name in OPTIONS.weights:
        cli.check_weights(name)
    if not OPTIONS.weights:
        raise cli.UsageError("--weights must name at least one")
    if unknown := sorted(set(OPTIONS.tasks) - {"suite", "practice", *practice.TASKS}):
        raise cli.UsageError(f"--tasks must be of suite, practice, {', '.join(practice.TASKS)}, "
                             f"got {unknown[0]!r}")
    if not (OPTIONS.tasks or OPTIONS.data_dir or OPTIONS.joined):
        raise cli.UsageError("--tasks must name one, where there is no --data_dir and no --joined")
    taking_part = contest.entries(OPTIONS.weights)
    names = [entry.name for entry in taking_part]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise cli.UsageError(f"--weights: two that take part would be called {twice[0]!r}; names "
                             "of files must differ from each other and from the baselines'")
    if importlib.util.find_spec("pytorch_optimizer") is None:
        raise cli.UsageError("SOAP needs `pip install torch pytorch-optimizer`")
    budget = BUDGETS[OPTIONS.budget]
    images = cli.load_data(OPTIONS) if OPTIONS.data_dir else None
    if images and budget.examples:
        images = images.part(min(budget.examples, len(images.y_train)))
    known = about(OPTIONS.weights, OPTIONS.budget)
    joined = [task for path in OPTIONS.joined for task in tasks_of(path, known)]
    # One pool for the data of each store: it is started anew where they change.
    with Workers(OPTIONS.processes, Path(OPTIONS.store) / "compiled") as workers:
        mine = list(contest_tasks(
            budget, OPTIONS.tasks, images, partial(Store, OPTIONS.store, workers=workers)))
        counts = Counter([task.name for task in mine] + [task["name"] for task in joined])
        if counts and max(counts.values()) > 1:
            raise cli.UsageError(f"--joined: {counts.most_common(1)[0][0]} would be there twice")
        found = joined + [contest.measure(task, taking_part, budget) for task in mine]
    found.sort(key=_place)
    record = report(found, known)
    pages.publish("compare", record, markdown(record, command(found, OPTIONS)), plot, OPTIONS)
