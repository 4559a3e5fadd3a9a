"""Figure 7: what a training step costs, by batch size."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, ClassVar

import numpy as np

from eval.benchmark import train_step
from eval.figures import compare, pictures
from eval.figures.context import Context
from eval.runs.data import Data
from eval.runs.run import weights_checksum

TITLE = "Time of a training step relative to hand-designed optimizers"
CLAIM = ("A step takes several times as long as with Adam at batch sizes of 1 to 10, and about as "
         "long at large ones.")
ROUNDS = 21


@dataclasses.dataclass(frozen=True)
class Timing:
    """Steps of `train_step.measure`, measured in this process and in no other's company.

    Attributes:
        model, batch_size, rounds: its arguments.
        weights: checksum of what `HierarchicalLOpt()` uses.
    """

    KEYS: ClassVar[frozenset[str]] = frozenset({"relative"})

    model: str
    batch_size: int
    rounds: int
    weights: str

    @property
    def title(self) -> str:
        """A short readable name; two runs may share it."""
        return f"timing-{self.model}-{self.batch_size}"

    def configuration(self, data: Data) -> dict[str, Any]:
        """Everything that the result depends on, but for the machine."""
        return dataclasses.asdict(self)

    def execute(self, data: Data) -> dict[str, Any]:
        """Measure."""
        began = time.perf_counter()
        report = train_step.measure(self.model, self.batch_size, self.rounds)
        return {**report, **self.configuration(data),
                "seconds": round(time.perf_counter() - began, 2)}


def measure(context: Context) -> dict[str, Any]:
    """Each model at the budget's batch sizes, one after the other."""
    budget = context.budget
    panels = {}
    for model, sizes, rounds in (
        ("mnist_conv", budget.batch_sizes, ROUNDS),
        ("resnet50v2", budget.resnet_batch_sizes, 5),
    ):
        if not sizes:
            continue
        runs = [Timing(model, size, rounds, weights_checksum(None)) for size in sizes]
        results = context.store_alone().results(runs, model)
        panels[model] = {
            "batch_sizes": list(sizes),
            "relative": {compare.NAMES[name]: [round(result["relative"][name], 3)
                                               for result in results]
                         for name in results[0]["relative"]},
            "step_seconds": {compare.NAMES[name]: [float(f"{result['step_seconds'][name]:.4g}")
                                              for result in results]
                        for name in results[0]["step_seconds"]},
        }
    return {
        "data": "random images", "seeds": [0], "rates": [],
        "panels": panels,
        "table": {
            "header": ["model", "batch size", *(f"relative to {name}" for name in next(
                iter(panels.values()))["relative"])],
            "rows": [[model, str(size), *(f"{panel['relative'][name][k]:.2f}"
                                          for name in panel["relative"])]
                     for model, panel in panels.items()
                     for k, size in enumerate(panel["batch_sizes"])]},
        "verdict": verdict(panels),
    }


def verdict(panels: dict[str, Any]) -> dict[str, Any]:
    """It holds if at the largest batch a step takes at most 1.5 times as long as Adam's."""
    parts, holds = [], True
    for model, panel in panels.items():
        ratios, sizes = panel["relative"][compare.NAMES["adam"]], panel["batch_sizes"]
        holds &= ratios[-1] <= 1.5
        parts.append(f"{model}, {ratios[0]:.2f} times Adam's at batch size {sizes[0]}, "
                     f"{ratios[-1]:.2f} times at {sizes[-1]}")
    return {"holds": holds if all(
        max(panel["batch_sizes"]) >= 64 for panel in panels.values()) else None,
            "sentence": f"A step takes, on {'; on '.join(parts)}. Ratios are medians over rounds "
                        "in which all optimizers took turns."}


def draw(measured: dict[str, Any]) -> Any:
    """A panel for each model."""
    panels = measured["panels"]
    figure, axes = pictures.panels(1, len(panels), width=4.6, height=3.4)
    for axis, (model, panel) in zip(axes.flat, panels.items()):
        sizes = panel["batch_sizes"]
        colours = [compare.colour_of(name) for name in panel["relative"]]
        for ratios, colour in zip(panel["relative"].values(), colours):
            axis.plot(sizes, ratios, ".-", color=colour)
        axis.axhline(1, color=pictures.GREY, linewidth=0.8, linestyle=":")
        axis.set(xscale="log", yscale="log", xlabel="batch size", title=model,
                 ylabel="time of a step, relative to")
        pictures.labels(
            axis, list(panel["relative"]), sizes[-1],
            np.array([ratios[-1] for ratios in panel["relative"].values()]),
            colours, apart=0.065)
    return figure
