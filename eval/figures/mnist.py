"""Figure 4a: networks that meta-training never saw, on MNIST."""

from __future__ import annotations

from typing import Any

from eval.figures import compare, pictures
from eval.figures.context import Context

TITLE = "Networks never seen: MLPs and convnets on MNIST"
CLAIM = ("On the MNIST networks the learned optimizer, untuned, is about as good as the best "
         "tuned hand-designed one.")
# What counts as about as good: the ratio of final losses.
ABOUT = 1.1


def measure(context: Context) -> dict[str, Any]:
    """Every optimizer on each network."""
    budget = context.budget
    panels = {
        network: compare.compare(
            context, network,
            budget.conv_steps if network.startswith("conv") else budget.steps)
        for network in budget.networks}
    return {"panels": panels, "table": compare.table(panels), "verdict": compare.verdict_of_each(
        list(context.weights), lambda name: verdict(panels, name))}


def verdict(panels: dict[str, list[compare.Series]], name: str) -> dict[str, Any]:
    """Whether this learned optimizer ends at most `ABOUT` times as high as the best tuned one."""
    parts, good = [], 0
    for network, series in panels.items():
        learned, best = compare.named(series, name), compare.best(series, "tuned")
        ratio = compare.final(learned) / compare.final(best)
        good += ratio <= ABOUT
        parts.append(f"{ratio:.2f} times that of {best['name']} on {network}")
    return {
        "holds": good == len(panels),
        "sentence": f"As it comes it ends at {', '.join(parts)}: at most {ABOUT} times "
                    f"the best tuned optimizer's loss on {good} of {len(panels)} networks."}


def draw(measured: dict[str, Any]) -> Any:
    """A panel for each network."""
    count = len(measured["panels"])
    figure, axes = pictures.panels(-(-count // 2), min(count, 2), width=4.6, height=3.4)
    for axis, (network, series) in zip(axes.flat, measured["panels"].items()):
        compare.draw(axis, series, network)
    for axis in axes[:, 0]:
        axis.set_ylabel("training loss")
    return figure


