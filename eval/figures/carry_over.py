"""Figure 2: from sigmoid to ReLU with the learned optimizer before this one, and with this one."""

from __future__ import annotations

import json
from typing import Any

from eval.figures import compare, pictures
from eval.figures.context import Context
from eval.runs import meta_run

TITLE = "From sigmoid to ReLU: the coordinatewise LSTM and the hierarchical RNN"
CLAIM = ("A coordinatewise LSTM (Andrychowicz et al. 2016), trained on one problem with sigmoid "
         "units, trains such networks but fails where the units are ReLU; the hierarchical RNN "
         "trains both.")
LSTM = "coordinatewise LSTM"
NETWORKS = ("mlp_sigmoid", "mlp_relu")


def training(steps: int) -> meta_run.MetaRun:
    """Meta-training of the LSTM as its authors did it: one problem, runs of 100 steps, truncations
    of 20, no second derivatives."""
    return meta_run.MetaRun(LSTM, json.dumps({
        "suite": meta_run.ONE_MLP, "network": {"kind": "coordinatewise_lstm"}, "members": 1,
        "models": 1, "families": 1, "unroll": 20, "run_range": [100, 100],
        "second_derivatives": False, "meta_learning_rate": 3e-3, "warmup": 10, "average": 0.9,
        "steps": steps, "seed": 0}), horizon=100, evaluations=10)


def measure(context: Context) -> dict[str, Any]:
    """Meta-train the LSTM, then train both networks with it, with ours, and with tuned Adam."""
    budget = context.budget
    (trained,) = context.store().results([training(budget.lstm_meta_steps)], "LSTM")
    learned = {
        **context.weights, LSTM: context.weights_file(meta_run.weights(trained))}
    panels = {
        network: compare.compare(context, network, budget.carry_over_steps, tuned=("adam",),
                                 untuned=(), learned=learned)
        for network in NETWORKS}
    return {
        "panels": panels, "meta_training": trained["curve"],
        "meta_training_seconds": trained["seconds"], "table": compare.table(panels),
        "verdict": compare.verdict_of_each(
            list(context.weights), lambda name: verdict(panels, name))}


def verdict(panels: dict[str, list[compare.Series]], name: str) -> dict[str, Any]:
    """It holds if the LSTM comes within twice Adam's loss with sigmoid units only, and ours comes
    within it with both."""
    ratios = {
        (of, network): compare.final(compare.named(series, of))
        / compare.final(compare.best(series, "tuned"))
        for network, series in panels.items() for of in (LSTM, name)}
    sigmoid, relu = (ratios[LSTM, network] for network in NETWORKS)
    ours = [ratios[name, network] for network in NETWORKS]
    lstm = (f"The LSTM ends at {sigmoid:.1f} times the loss of tuned Adam with sigmoid units and "
            f"at {relu:.1f} times with ReLU units; ours at {ours[0]:.2f} and {ours[1]:.2f} times.")
    if sigmoid > 2:
        why = "With this budget the LSTM does not learn its own kind of network well, so that " \
              "what carries over cannot be told."
        return {"holds": None, "sentence": f"{lstm} {why}"}
    return {"holds": bool(relu > 2 * sigmoid and max(ours) <= 2), "sentence": lstm}


def draw(measured: dict[str, Any]) -> Any:
    """A panel for each network."""
    figure, axes = pictures.panels(1, 2, width=4.6, height=3.4, sharey=True)
    for axis, (network, series) in zip(axes.flat, measured["panels"].items()):
        compare.draw(axis, series, network)
    axes[0, 0].set_ylabel("training loss")
    return figure
