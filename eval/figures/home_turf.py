"""Figure 3: new instances of problems that meta-training draws from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from eval.figures import compare, pictures
from eval.figures.context import Context
from eval.runs import optimizers
from eval.runs.problem_run import ProblemRun

TITLE = "Home turf: new instances of problems of the meta-training set"
# Shipped weights that have no home: they were designed.
DESIGNED = ("default", "rule", "untrained")
CLAIM = ("On problems of the kinds that it was meta-trained on, the learned optimizer does better "
         "than hand-designed ones.")


def measure(context: Context) -> dict[str, Any]:
    """Every optimizer on new instances; hand-designed ones at one rate for the whole suite, the
    best of the grid, and at the best for each problem."""
    budget = context.budget
    common = (budget.problem_steps, budget.instances)
    learned = {name: weights for name, weights in context.weights.items() if has_home(weights)}
    fixed = {
        **{(name, problem): ProblemRun(problem, optimizers.LEARNED, *common, weights=weights)
           for name, weights in learned.items() for problem in budget.problems},
        **{(compare.NAMES[name], problem): ProblemRun(problem, name, *common)
           for name in optimizers.UNTUNED for problem in budget.problems}}
    searched = {
        (name, problem): ProblemRun(problem, name, *common, rates=budget.rates)
        for name in optimizers.TUNED for problem in budget.problems}
    runs = [*fixed.values(), *searched.values()]
    results = dict(zip(runs, context.store().results(runs, "problems")))

    def series(name: str, kind: str, run: ProblemRun, rate: float | None) -> compare.Series:
        return {"name": name, "kind": kind, "learning_rate": rate,
                **compare.quartiles(run.results(results[run], rate))}

    panels: dict[str, list[compare.Series]] = {problem: [] for problem in budget.problems}
    for (name, problem), run in fixed.items():
        kind = "learned" if name in learned else "untuned"
        panels[problem].append(series(name, kind, run, None))
    for name in optimizers.TUNED:
        of = {problem: searched[name, problem] for problem in panels}
        losses = np.array([[
            compare.final(series(name, "", run, rate)) for rate in budget.rates]
            for run in of.values()])
        # The meta-objective, which tells nothing apart below 1e-6; a run that is lost counts as one
        # that has grown by ten decades.
        overall = np.log(np.clip(losses, 1e-6, 1e10)).mean(axis=0)
        suite_rate = budget.rates[int(np.argmin(overall))]
        for problem, row in zip(panels, losses):
            run = of[problem]
            panels[problem].append(series(compare.NAMES[name], "tuned", run, suite_rate))
            panels[problem].append(series(
                compare.NAMES[name], "tuned on each", run, budget.rates[int(np.argmin(row))]))
    seeds = [next(iter(fixed.values())).seed]
    return {
        "data": f"{budget.instances} new instances of each problem, and rates searched on them",
        "seeds": seeds, "grid_seeds": seeds,
        "panels": panels, "table": compare.table(panels), "verdict": compare.verdict_of_each(
            list(learned), lambda name: verdict(panels, name)) if learned else {
                "holds": None, "sentence": "None of these weights was meta-trained."}}


def has_home(weights: str) -> bool:
    """Whether weights were meta-trained: those that are shipped say so, of others it is assumed."""
    return weights not in DESIGNED


def verdict(panels: dict[str, list[compare.Series]], name: str) -> dict[str, Any]:
    """It holds if it ends lower than the best tuned on the suite on most problems."""
    better = {"tuned": 0, "tuned on each": 0, "untuned": 0}
    for series in panels.values():
        learned = compare.final(compare.named(series, name))
        for kind in better:
            better[kind] += learned < compare.final(compare.best(series, kind))
    count = len(panels)
    return {
        "holds": better["tuned"] > count / 2,
        "sentence": f"Of {count} problems, it ends lower than the best of the "
                    f"optimizers tuned on the suite on {better['tuned']}, than the best tuned on "
                    f"each problem on {better['tuned on each']}, and than the best untuned one on "
                    f"{better['untuned']}."}


def draw(measured: dict[str, Any]) -> Any:
    """A panel for each problem; what was tuned on each is in the table only."""
    count = len(measured["panels"])
    figure, axes = pictures.panels(math.ceil(count / 3), min(count, 3), width=4.4, height=3.2)
    for axis, (problem, series) in zip(axes.flat, measured["panels"].items()):
        compare.draw(axis, [s for s in series if s["kind"] != "tuned on each"], problem)
    for axis in axes[:, 0]:
        axis.set_ylabel("objective relative to the start")
    return figure
