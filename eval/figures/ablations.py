"""Figure 6: what each part of the optimizer is worth to meta-training."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from eval.figures import pictures
from eval.figures.context import Context
from eval.runs import meta_run

TITLE = "Ablations: meta-training with each part switched off"
CLAIM = "Each part of the optimizer makes meta-training reach a lower meta-objective."
FULL = "full"
# The paper's optimizer, and what is changed in each ablation: switches of the network, then fields
# of the training.
NETWORK = {"lookahead": True}
ABLATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    FULL: ({}, {}),
    "no Global RNN": ({"global_units": 0}, {}),
    "no Tensor RNN": ({"global_units": 0, "tensor_units": 0}, {}),
    "no lookahead": ({"lookahead": False}, {}),
    "one time scale": ({"time_scales": 1}, {}),
    "constant input decay": ({"learnable_input_decay": False}, {}),
    "constant scale decay": ({"learnable_scale_decay": False}, {}),
    "no dynamic output scale": ({"dynamic_output_scale": False}, {}),
    "no log mean squares": ({"relative_log_mean_squares": False}, {}),
    "no gradient products": ({"gradient_products": False}, {}),
    "no relative learning rate": ({"relative_learning_rate": "off"}, {}),
    "learning rate relative in tensor": ({"relative_learning_rate": "tensor"}, {}),
    "no gradient shortcut": ({"gradient_shortcut": False}, {}),
    "zero start vectors": ({"learned_start_vectors": False}, {}),
    "plain meta-objective": ({}, {"objective": "plain"}),
    "no second derivatives": ({}, {"second_derivatives": False}),
}


def training(name: str, steps: int, seed: int) -> meta_run.MetaRun:
    """Meta-training of one ablation; all else is the same."""
    switches, fields = ABLATIONS[name]
    return meta_run.MetaRun(name, json.dumps({
        "suite": meta_run.PAIR, "network": {**NETWORK, **switches}, "members": 2, "models": 4,
        "families": 2, "unroll": 25, "run_range": [100, 100], "objective_every": 5,
        "initial_learning_rate": [1e-4, 1e-1], "meta_learning_rate": 3e-3, "warmup": 5,
        "average": 0.9, "steps": steps, "seed": seed, **fields}), horizon=100, evaluations=10)


def measure(context: Context) -> dict[str, Any]:
    """Meta-objectives over meta-steps: medians and quartiles over seeds."""
    budget = context.budget
    names = list(ABLATIONS)[: 1 + budget.ablations]
    runs = {name: [training(name, budget.meta_steps, seed) for seed in budget.meta_seeds]
            for name in names}
    store = context.store()
    # Seed after seed: those of one ablation share its programs, which only the first compiles.
    store.results([run for of_seed in zip(*runs.values()) for run in of_seed], "ablations")
    series = []
    for name, of_name in runs.items():
        results = store.results(of_name)
        curves = np.array([[y for _, y in result["curve"]] for result in results])
        low, median, high = np.quantile(curves, [0.25, 0.5, 0.75], axis=0)
        series.append({
            "name": name, "steps": [step for step, _ in results[0]["curve"]],
            **{key: [float(f"{y:.5g}") for y in values]
               for key, values in (("low", low), ("median", median), ("high", high))},
            "seconds": round(sum(result["seconds"] for result in results), 1)})
    return {
        "series": series, "seeds": list(budget.meta_seeds), "rates": [],
        "data": "a noisy quadratic and a small MLP on generated data",
        "table": {
            "header": ["ablation", f"meta-objective after {budget.meta_steps} meta-steps",
                       "quartiles", "worse than full by"],
            "rows": [[one["name"], f"{one['median'][-1]:.3f}",
                      f"{one['low'][-1]:.3f} to {one['high'][-1]:.3f}",
                      f"{one['median'][-1] - series[0]['median'][-1]:+.3f}"] for one in series]},
        "verdict": verdict(series),
    }


def verdict(series: list[dict[str, Any]]) -> dict[str, Any]:
    """It holds if the full optimizer ends lowest; where quartiles overlap, it cannot be told."""
    full, *others = series
    worse = [s["name"] for s in others if s["low"][-1] > full["high"][-1]]
    better = [s["name"] for s in others if s["high"][-1] < full["low"][-1]]
    middle = len(others) - len(worse) - len(better)
    sentence = (
        f"With quartiles apart, {len(worse)} of {len(others)} ablations end worse than the full "
        f"optimizer{_named(worse)}, {len(better)} end better{_named(better)}, and for {middle} "
        "quartiles overlap. Meta-training so short says what helps its beginning, and no more.")
    holds = True if len(worse) == len(others) else False if better else None
    return {"holds": holds, "sentence": sentence}


def _named(names: list[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def draw(measured: dict[str, Any]) -> Any:
    """A small panel for each ablation, with the full optimizer in each."""
    full, *others = measured["series"]
    figure, axes = pictures.panels(3, 5, width=2.4, height=2.0, sharex=True, sharey=True)
    for axis, one in zip(axes.flat, others):
        for series, colour in ((full, pictures.GREY), (one, pictures.VERMILION)):
            axis.plot(series["steps"], series["median"], color=colour, linewidth=1.5)
            axis.fill_between(series["steps"], series["low"], series["high"], color=colour,
                              alpha=0.2, linewidth=0)
        axis.set_title(one["name"], fontsize=9, color=pictures.VERMILION)
    axes[0, 0].annotate("full", (full["steps"][-1], full["median"][-1]), xytext=(-2, -11),
                        textcoords="offset points", ha="right", color=pictures.GREY)
    for axis in axes.flat[len(others):]:
        axis.set_axis_off()
    for axis in axes[-1]:
        axis.set_xlabel("meta-steps")
    for axis in axes[:, 0]:
        axis.set_ylabel("meta-objective")
    return figure
