"""The paper's figures, one beyond it, and one of another paper: a module for each.

A module has `TITLE`, the paper's `CLAIM` in our words, `measure(context)`, which gives what is
drawn as JSON has it, and `draw(measured)`, which gives the picture. What `measure` gives has a
`table` (`header` and `rows`), and a `verdict`: whether the claim `holds` (None: it cannot be told)
and a `sentence` that says what was seen.
"""

from __future__ import annotations

import importlib
from types import ModuleType

# By the paper's numbers.
FIGURES = {
    "2": "carry_over",
    "3": "home_turf",
    "4a": "mnist",
    "4b": "imagenet",
    "5": "learning_rates",
    "6": "ablations",
    "7": "step_time",
    "generalisation": "generalisation",
    "switch": "switch",
}


def module(figure: str) -> ModuleType:
    """The module of one of `FIGURES`, imported only when it is wanted."""
    return importlib.import_module(f"eval.figures.{FIGURES[figure]}")
