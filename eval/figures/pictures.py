"""How the pictures look: drawn without a display, in colours that the colour-blind can tell apart
(Okabe and Ito), with labels at the lines in place of a legend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import ticker

# Of numbers: as the colour-blind see it, too, from dark to light.
MAP = "viridis"
BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
PURPLE = "#6A3D9A"
# For what stands beside something in vermilion.
QUIET = (BLUE, GREEN, "#CC79A7", "#56B4E9", "#E69F00", GREY)


def panels(
    rows: int, columns: int, width: float = 4, height: float = 3, **settings: Any
) -> tuple[plt.Figure, Any]:
    """A figure and its (rows, columns) axes, each with as many inches."""
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), layout="constrained",
        squeeze=False, **settings)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def label(axis: plt.Axes, text: str, x: float, y: float, colour: str) -> None:
    """A label to the right of a point."""
    axis.annotate(text, (x, y), xytext=(5, 0), textcoords="offset points", va="center",
                  color=colour, annotation_clip=False)


def sequence(count: int) -> list[Any]:
    """Colours for things in an order, none so light that it is lost on white."""
    return list(matplotlib.colormaps[MAP](np.linspace(0, 0.85, count)))


def labels(
    axis: plt.Axes, texts: list[str], x: float, heights: np.ndarray, colours: list[Any],
    apart: float = 0.055,
) -> None:
    """Labels at the right of a log axis for points at x, moved apart where they would overlap; what
    is below the axis, 0 say, has its label at the bottom.

    Args:
        apart: least distance, as a share of the axis.
    """
    from sklearn.isotonic import isotonic_regression

    bottom, top = axis.get_ylim()
    heights = np.maximum(heights, bottom)
    low, high = np.log((bottom, top))
    order = np.argsort(heights)
    wanted = (np.log(heights[order]) - low) / (high - low)
    # As near as can be in the same order, the least distance apart.
    room = apart * np.arange(len(order))
    placed = isotonic_regression(wanted - room, y_max=1 - room[-1]) + room
    for k, y in zip(order, placed):
        axis.annotate(
            texts[k], (x, heights[k]), xytext=(1.05, y), textcoords=axis.transAxes, va="center",
            color=colours[k], fontsize=8, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colours[k], "linewidth": 0.5})


def _plain_ticks(axis: Any) -> None:
    """Plain numbers on a log axis of less than two decades, where matplotlib's labels run into each
    other."""
    low, high = axis.get_view_interval()
    if axis.get_scale() == "log" and high < 100 * low:
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:,.4g}"))
        axis.set_minor_formatter(ticker.NullFormatter())


def save(figure: plt.Figure, path: str | Path, vector: bool = False) -> None:
    """Write a PNG, and its folder if need be; `vector`: an SVG beside it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            _plain_ticks(axis)
    figure.savefig(path, dpi=100, format="png")
    if vector:
        # The same picture shall be the same file.
        with plt.rc_context({"svg.hashsalt": path.stem}):
            figure.savefig(path.with_suffix(".svg"), format="svg", metadata={"Date": None})
    plt.close(figure)
