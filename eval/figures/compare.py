"""The learned optimizer beside tuned and untuned ones on one network, over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from eval.figures import pictures
from eval.figures.context import Context
from eval.runs import grid_search, optimizers
from eval.runs.results import Result, final_loss, shown
from eval.runs.run import Run
from eval.runs.store import Store

NAMES = {
    "hrnn": "HierarchicalLOpt", "adam": "Adam", "rmsprop": "RMSProp", "sgd": "SGD, momentum",
    "adamw": "AdamW", "schedule_free": "schedule-free AdamW", "prodigy": "Prodigy",
    "dadapt": "D-Adaptation", "muon": "Muon (a matrix's spectral norm)",
    "sgd_plain": "SGD (spectral)", "switch_sgd": "greedy switch",
    "switch_sgd_holdout": "greedy switch, holdout",
    **{f"sgd_{value:g}": f"SGD, momentum {value:g}" for value in optimizers.MOMENTA},
}
# The same in every panel of every figure; others are black.
COLOURS = {
    NAMES["hrnn"]: pictures.VERMILION, "default": pictures.VERMILION, "paper": pictures.PURPLE,
    NAMES["switch_sgd"]: pictures.VERMILION, NAMES["switch_sgd_holdout"]: pictures.PURPLE,
    **dict(zip((NAMES[name] for name in (
        "adam", "rmsprop", "sgd", "adamw", "schedule_free", "prodigy")), pictures.QUIET)),
    **dict(zip((NAMES[f"sgd_{value:g}"] for value in optimizers.MOMENTA),
               pictures.sequence(len(optimizers.MOMENTA)))),
    "SGD, momentum 0": pictures.GREY}
Series = dict[str, Any]


def compare(
    context: Context, network: str, steps: int, *, store: Store | None = None,
    tuned: tuple[str, ...] = tuple(optimizers.TUNED),
    untuned: tuple[str, ...] = tuple(optimizers.UNTUNED), learned: dict[str, str] | None = None,
) -> list[Series]:
    """Losses over steps: medians and quartiles over the budget's seeds.

    Args:
        context: of the figure.
        network: of `eval.runs.networks`.
        steps: training steps.
        store: None: the one of the images.
        tuned: optimizers at the best constant learning rate of the budget's grid.
        untuned: optimizers as they come.
        learned: names and weights of learned ones; None: the context's weights.

    Returns:
        A series for each: `name`, `kind` (`learned`, `tuned` or `untuned`), `learning_rate`,
        `steps`, `low`, `median` and `high` losses (None stands for diverged), `final` losses.
    """
    budget = context.budget
    store = store or context.store()
    learned = context.weights if learned is None else learned
    fixed = {
        **{(name, "learned"): [Run(network, optimizers.LEARNED, steps, seed=seed, weights=weights)
                               for seed in budget.seeds] for name, weights in learned.items()},
        **{(NAMES[name], "untuned"): [Run(network, name, steps, seed=seed)
                                      for seed in budget.seeds] for name in untuned},
    }
    grid = [Run(network, name, steps, rate, seed=seed) for name in tuned for rate in budget.rates
            for seed in budget.grid_seeds]
    # All at once, so that no process waits for another's search.
    store.results([*(run for runs in fixed.values() for run in runs), *grid], network)
    best = {
        name: grid_search.best(network, name, "constant", steps, store, learning_rates=budget.rates,
                        seeds=budget.seeds, grid_seeds=budget.grid_seeds)["learning_rate"]
        for name in tuned}
    fixed |= {(NAMES[name], "tuned"): [Run(network, name, steps, rate, seed=seed)
                                       for seed in budget.seeds] for name, rate in best.items()}
    return [
        {"name": name, "kind": kind, "learning_rate": runs[0].learning_rate,
         **quartiles(store.results(runs, network))}
        for (name, kind), runs in fixed.items()]


def quartiles(results: list[Result]) -> Series:
    """The `steps` of curves, and the `low`, `median` and `high` of their losses over seeds; the
    `final` losses; and the `seconds` that all took."""
    steps = sorted({step for result in results for step, _ in result["curve"]})
    curves = np.array([[dict(map(tuple, result["curve"])).get(step, math.inf) for step in steps]
                       for result in results])
    with np.errstate(invalid="ignore"):
        low, median, high = (
            np.quantile(curves, [0.25, 0.5, 0.75], axis=0, method="nearest")
            if steps else np.zeros((3, 0)))
    return {
        "steps": steps, "low": _numbers(low), "median": _numbers(median), "high": _numbers(high),
        "final": _numbers(map(final_loss, results)),
        "seconds": round(sum(result["seconds"] for result in results), 1)}


def _numbers(values: Any) -> list[float | None]:
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]


def final(series: Series) -> float:
    """The median of the final losses, infinite if the median run diverged."""
    return float(np.median([math.inf if loss is None else loss for loss in series["final"]]))


def named(series: list[Series], name: str) -> Series:
    """The one of this name."""
    return next(s for s in series if s["name"] == name)


def verdict_of_each(
    names: list[str], judge: Callable[[str], dict[str, Any]]
) -> dict[str, Any]:
    """The verdict on the first of the weights, and beside it what is to be said of the others."""
    found = {name: judge(name) for name in names}
    said = [f"`{name}`: {of_name['sentence']}" for name, of_name in found.items()]
    return {"holds": found[names[0]]["holds"], "sentence": " ".join(said)}


def best(series: list[Series], kind: str) -> Series:
    """The one of a kind that ends lowest."""
    return min((s for s in series if s["kind"] == kind), key=final)


def table(panels: dict[str, list[Series]]) -> dict[str, Any]:
    """Median final losses: a row for each optimizer, a column for each panel."""
    names = [(s["name"], s["kind"]) for s in next(iter(panels.values()))]
    rows = []
    for name, kind in names:
        row = [name, kind]
        for series in panels.values():
            one = next(s for s in series if (s["name"], s["kind"]) == (name, kind))
            rate = f" ({one['learning_rate']:g})" if one["learning_rate"] else ""
            row.append(f"{shown(final(one))}{rate}")
        rows.append(row)
    return {"header": ["optimizer", "", *panels], "rows": rows}


def colour_of(name: str) -> str:
    """The colour of an optimizer by the name that is shown."""
    return COLOURS.get(name, "#000000")


def draw(axis: Any, series: list[Series], title: str) -> None:
    """Medians over steps on log axes, quartiles shaded, names at the ends of the lines."""
    styles = {"learned": "-", "tuned": "-", "untuned": "--"}
    shown = [s for s in series if s["steps"] and s["median"][-1] is not None]
    drawn = []
    for s in shown:
        colour = colour_of(s["name"])
        ends = [np.array([np.nan if y is None else y for y in s[key]])
                for key in ("low", "median", "high")]
        learned = s["kind"] == "learned"
        axis.plot(s["steps"], ends[1], styles[s["kind"]], color=colour,
                  linewidth=2.2 if learned else 1.3, zorder=3 if learned else 2)
        axis.fill_between(s["steps"], ends[0], ends[2], color=colour,
                          alpha=0.25 if learned else 0.08, linewidth=0)
        drawn.append((s["name"], s["steps"][-1], s["median"][-1], colour))
    axis.set(xscale="log", yscale="log", xlabel="training steps", title=title)
    if drawn:
        names, steps, ends, colours = zip(*drawn)
        pictures.labels(axis, list(names), max(steps), np.array(ends), list(colours), apart=0.065)
