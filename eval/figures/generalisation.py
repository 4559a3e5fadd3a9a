"""Beyond the paper: kinds of networks and of data that nothing was meta-trained or chosen on."""

from __future__ import annotations

from typing import Any

from eval import data
from eval.figures import compare, mnist
from eval.figures.context import Context

TITLE = "Beyond the paper: networks of other kinds"
CLAIM = ("The paper makes no claim on these. The question is whether the learned optimizer, "
         "untuned, is about as good as the best tuned one there too, and better than untuned ones.")
IMAGE_NETWORKS = {"conv_bn_relu": "residual convnet, batch norm", "rows_gru": "GRU over rows"}


def measure(context: Context) -> dict[str, Any]:
    """Every optimizer on a residual convnet, a recurrent net, an autoencoder and a transformer."""
    steps = context.budget.other_steps
    panels = {title: compare.compare(context, network, steps)
              for network, title in IMAGE_NETWORKS.items()}
    for network, title, of in (
        ("autoencoder", "autoencoder", context.images.with_itself()),
        ("transformer", "transformer on a manual", data.text(min(
            context.budget.examples or 12_000, 5000))),
    ):
        panels[title] = compare.compare(context, network, steps, store=context.store(of))
    return {"panels": panels, "table": compare.table(panels), "verdict": verdict(panels)}


def verdict(panels: dict[str, list[compare.Series]]) -> dict[str, Any]:
    """As figure 4a's, and how it does beside the best untuned optimizer."""
    tuned = mnist.verdict(panels)
    better = sum(
        compare.final(compare.best(series, "learned"))
        < compare.final(compare.best(series, "untuned")) for series in panels.values())
    return {"holds": tuned["holds"], "sentence":
            f"{tuned['sentence']} It ends lower than the best of the untuned on {better}."}


def draw(measured: dict[str, Any]) -> Any:
    """A panel for each network."""
    return mnist.draw(measured)
