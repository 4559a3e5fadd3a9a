"""How the pictures look: drawn without a display, in colours that the colour-blind can tell apart
(Okabe and Ito), with labels at the lines in place of a legend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"


def panels(rows: int, columns: int, **settings: Any) -> tuple[plt.Figure, Any]:
    """A figure and its (rows, columns) axes."""
    figure, axes = plt.subplots(
        rows, columns, figsize=(4 * columns, 3 * rows), layout="constrained", squeeze=False,
        **settings)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def label(axis: plt.Axes, text: str, x: float, y: float, colour: str) -> None:
    """A label to the right of a point."""
    axis.annotate(text, (x, y), xytext=(5, 0), textcoords="offset points", va="center",
                  color=colour, annotation_clip=False)


def save(figure: plt.Figure, path: str | Path) -> None:
    """Write a PNG, and its folder if need be."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, format="png")
    plt.close(figure)
