"""The first experiments of another paper, on optimizers that choose themselves (Lee and Lee, arXiv
2512.06370)."""

from __future__ import annotations

import math
from typing import Any

from eval.figures import compare, pictures
from eval.figures.context import Context
from eval.runs import optimizers
from eval.runs.ellipse_run import MOMENTA, EllipseRun
from eval.runs.results import shown

TITLE = "Optimizers that choose themselves: the greedy switch (Lee and Lee, arXiv 2512.06370)"
CLAIM = ("SGD that chooses its momentum at every step by alignment matches or beats the best fixed "
         "momentum of a sweep, on an elliptic loss and on a ResNet-18; and the trust region, "
         "spectral or diagonal, decides which optimizer is best.")
ABOUT = 1.1
NOISES = (0.0, 0.1)
SWITCH = "greedy switch"
TRUST_REGIONS = ("sgd_plain", "rmsprop", "muon")


def measure(context: Context) -> dict[str, Any]:
    """The switch beside each momentum; and three trust regions, each at its best rate."""
    budget = context.budget
    panels = {_ellipse(noise): _on_ellipse(context, noise) for noise in NOISES}
    panels[budget.switch_network] = compare.compare(
        context, budget.switch_network, budget.switch_steps, tuned=(), learned={},
        untuned=("switch_sgd", "switch_sgd_holdout", *optimizers.CANDIDATES["switch_sgd"]))
    regions = compare.compare(
        context, "mlp_relu", budget.steps, tuned=TRUST_REGIONS, untuned=(), learned={})
    return {
        "panels": panels, "regions": regions,
        "table": {
            "header": ["experiment", "optimizer", "final loss"],
            "rows": [[name, one["name"], _loss(one)]
                     for name, series in {**panels, "trust regions, mlp_relu": regions}.items()
                     for one in series]},
        "verdict": verdict(panels, regions)}


def _ellipse(noise: float) -> str:
    return f"ellipse, noise {noise:g}" if noise else "ellipse"


def _on_ellipse(context: Context, noise: float) -> list[compare.Series]:
    steps = context.budget.problem_steps
    runs = {
        momentum: [EllipseRun(momentum, noise, steps, seed) for seed in context.budget.seeds]
        for momentum in (None, *MOMENTA)}
    store = context.store()
    store.results([run for of_one in runs.values() for run in of_one], "ellipse")
    return [{"name": SWITCH if momentum is None else f"SGD, momentum {momentum:g}",
             "kind": "untuned", "learning_rate": None, **compare.quartiles(store.results(of_one))}
            for momentum, of_one in runs.items()]


def _loss(series: compare.Series) -> str:
    rate = f" ({series['learning_rate']:g})" if series["learning_rate"] else ""
    return f"{shown(compare.final(series))}{rate}"


def verdict(
    panels: dict[str, list[compare.Series]], regions: list[compare.Series]
) -> dict[str, Any]:
    """It holds if the switch ends at most `ABOUT` times as high as the best momentum in each."""
    parts, good = [], 0
    for name, series in panels.items():
        ours = next(one for one in series if one["name"] == SWITCH)
        best = min((one for one in series if SWITCH not in one["name"]), key=compare.final)
        mine, theirs = compare.final(ours), compare.final(best)
        good += mine <= ABOUT * theirs
        ratio = f"{mine / theirs:.2g} times" if math.isfinite(mine) and theirs > 0 else "not near"
        parts.append(f"{ratio} that of {best['name']} on {name}")
    order = sorted(regions, key=compare.final)
    return {
        "holds": good == len(panels),
        "sentence": f"The switch ends at {', '.join(parts)}: at most {ABOUT} times the loss of the "
                    f"best fixed momentum on {good} of {len(panels)}. Of trust regions on "
                    f"mlp_relu, each at its best rate, the order is "
                    f"{', '.join(one['name'] for one in order)}."}


def draw(measured: dict[str, Any]) -> Any:
    """A panel for each experiment."""
    panels = {**measured["panels"], "trust regions, mlp_relu": measured["regions"]}
    figure, axes = pictures.panels(2, 2, width=4.8, height=3.4)
    for axis, (name, series) in zip(axes.flat, panels.items()):
        compare.draw(axis, series, name)
    for axis in axes[:, 0]:
        axis.set_ylabel("loss")
    return figure
