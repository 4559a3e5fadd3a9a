"""Figure 5: how much the learning rate that training starts from matters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from eval.figures import compare, pictures
from eval.figures.context import Context
from eval.runs import optimizers
from eval.runs.problem_run import ProblemRun
from eval.runs.results import final_loss
from eval.runs.run import Run

TITLE = "Learning rates over six decades"
CLAIM = ("The learned optimizer works over a much wider range of initial learning rates than "
         "hand-designed ones.")
# A rate works where the loss ends at most so many times the lowest of its own optimizer.
WORKS = 2.0
NETWORK, PROBLEM = "conv_relu", "quadratic"


def measure(context: Context) -> dict[str, Any]:
    """Final losses at every swept rate: of learned optimizers, their initial learning rate, or
    the learning rate of weights that have no initial one."""
    from hrnn_opt.files.resolve import resolve

    budget = context.budget
    rates = budget.swept
    initial = {name: resolve(weights).takes_log_rates for name, weights in context.weights.items()}
    names = (*context.weights, *optimizers.BASELINES)

    def settings(name: str) -> dict[str, Any]:
        if name in context.weights:
            return {"optimizer": optimizers.LEARNED, "weights": context.weights[name]}
        return {"optimizer": name}

    def run(name: str, rate: float, seed: int) -> Run:
        keyword = "initial_learning_rate" if initial.get(name) else "learning_rate"
        return Run(NETWORK, steps=budget.conv_steps, seed=seed, **{keyword: rate}, **settings(name))

    seeds = budget.grid_seeds
    store = context.store()
    on_problem = {
        name: ProblemRun(
            PROBLEM, steps=budget.problem_steps, instances=budget.instances, rates=tuple(rates),
            initial=initial.get(name, False), **settings(name)) for name in names}
    results = dict(zip(names, store.results(on_problem.values(), PROBLEM)))
    store.results([run(name, rate, seed) for name in names for rate in rates for seed in seeds],
                  NETWORK)
    panels = {
        NETWORK: [_series(name, name in initial, rates, [
            store.results([run(name, rate, seed) for seed in seeds]) for rate in rates])
            for name in names],
        PROBLEM: [_series(name, name in initial, rates, [
            on_problem[name].results(results[name], rate) for rate in rates]) for name in names],
    }
    return {
        "panels": panels,
        "table": {
            "header": ["optimizer", *(f"{panel}: {word}" for panel in panels
                                      for word in ("decades", "lowest loss"))],
            "rows": [[series[0]["name"], *(
                cell for one in series for cell in (one["decades"], one["lowest"]))]
                for series in zip(*panels.values())]},
        "verdict": compare.verdict_of_each(
            list(initial), lambda name: verdict(panels, name, initial[name])),
    }


def _series(
    name: str, learned: bool, rates: tuple[float, ...], results: list[list[dict[str, Any]]]
) -> dict[str, Any]:
    """Medians and quartiles of the final losses by rate, and over how many decades they work."""
    losses = np.array([[final_loss(result) for result in of_rate] for of_rate in results])
    low, median, high = np.quantile(losses, [0.25, 0.5, 0.75], axis=1, method="nearest")
    works = median <= WORKS * median.min()
    return {
        "name": compare.NAMES.get(name, name), "learned": learned, "rates": list(rates),
        **{key: [float(f"{y:.6g}") if math.isfinite(y) else None for y in values]
           for key, values in (("low", low), ("median", median), ("high", high))},
        "lowest": float(f"{median.min():.3g}"),
        # Each rate stands for the step of the sweep around it.
        "decades": round(float(works.sum() * np.log10(rates[1] / rates[0])), 1),
    }


def verdict(panels: dict[str, list[dict[str, Any]]], name: str, initial: bool) -> dict[str, Any]:
    """It holds if the range is twice as wide as the widest hand-designed one, in each panel."""
    parts, holds = [], True
    for panel, series in panels.items():
        learned = compare.named(series, name)
        widest = max((one for one in series if not one["learned"]), key=lambda one: one["decades"])
        holds &= learned["decades"] >= 2 * widest["decades"]
        parts.append(f"over {learned['decades']:g} decades on {panel}, where {widest['name']} "
                     f"works over {widest['decades']:g}")
    why = "" if initial else (
        " These weights have no initial learning rate: what is swept is the size of their steps, "
        "which the paper's optimizer decides for itself.")
    return {"holds": holds, "sentence":
            f"It ends within {WORKS:g} times its own lowest loss "
            f"{' and '.join(parts)}.{why}"}


def draw(measured: dict[str, Any]) -> Any:
    """A panel for each task."""
    figure, axes = pictures.panels(1, len(measured["panels"]), width=4.6, height=3.4)
    for axis, (panel, series) in zip(axes.flat, measured["panels"].items()):
        ends = []
        for one in series:
            low, median, high = (
                np.array([np.nan if y is None else y for y in one[key]])
                for key in ("low", "median", "high"))
            learned = one["learned"]
            colour = compare.colour_of(one["name"])
            axis.plot(one["rates"], median, ".-", color=colour, linewidth=2.2 if learned else 1.3)
            axis.fill_between(one["rates"], low, high, color=colour, alpha=0.15, linewidth=0)
            there = np.flatnonzero(np.isfinite(median))
            if there.size:
                ends.append((one["name"], median[there[-1]], colour))
        axis.set(xscale="log", yscale="log", xlabel="(initial) learning rate", title=panel)
        names, heights, colours = zip(*ends)
        pictures.labels(axis, list(names), max(series[0]["rates"]), np.array(heights),
                        list(colours), apart=0.065)
    axes[0, 0].set_ylabel("final training loss")
    axes[0, 1].set_ylabel("final objective relative to the start")
    return figure
