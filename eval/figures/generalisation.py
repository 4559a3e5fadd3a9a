"""Beyond the paper: kinds of networks and of data that nothing was meta-trained or chosen on."""

from __future__ import annotations

from typing import Any

from eval.figures import compare, mnist
from eval.figures.context import Context
from eval.runs import data
from eval.runs.data import Data

TITLE = "Beyond the paper: networks of other kinds"
CLAIM = ("The paper makes no claim on these. The question is whether the learned optimizer, "
         "untuned, is about as good as the best tuned one there too, and better than untuned ones.")
TITLES = {"conv_bn_relu": "residual convnet, batch norm", "rows_gru": "GRU over rows",
          "autoencoder": "autoencoder", "transformer": "transformer on a manual"}
MOST_TEXTS = 10_000


def measure(context: Context) -> dict[str, Any]:
    """Every optimizer on a residual convnet, a recurrent net, an autoencoder and a transformer."""
    budget = context.budget
    panels = {
        TITLES[network]: compare.compare(
            context, network, budget.other_steps, store=context.store(_data(network, context)))
        for network in budget.others}
    return {"data": f"{len(context.images.y_train):,} images, and for the transformer the manual "
                    "that Python's `help` shows",
            "panels": panels, "table": compare.table(panels), "verdict": compare.verdict_of_each(
                list(context.weights), lambda name: verdict(panels, name))}


def _data(network: str, context: Context) -> Data | None:
    """What a network is trained on; None: on images and their classes."""
    if network == "autoencoder":
        return context.images.with_itself()
    if network == "transformer":
        return data.text(min(context.budget.examples or MOST_TEXTS, MOST_TEXTS) // 2)
    return None


def verdict(panels: dict[str, list[compare.Series]], name: str) -> dict[str, Any]:
    """As figure 4a's, and how it does beside the best untuned optimizer."""
    tuned = mnist.verdict(panels, name)
    better = sum(
        compare.final(compare.named(series, name))
        < compare.final(compare.best(series, "untuned")) for series in panels.values())
    return {"holds": tuned["holds"], "sentence":
            f"{tuned['sentence']} It ends lower than the best of the untuned on {better}."}


def draw(measured: dict[str, Any]) -> Any:
    """A panel for each network."""
    return mnist.draw(measured)
