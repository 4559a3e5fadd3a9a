"""Figure 4b: networks and images of ImageNet's size."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from eval.figures import compare, pictures
from eval.figures.context import Context
from eval.runs import optimizers
from eval.runs.data import Data
from eval.runs.run import learned_checksum

TITLE = "Large networks: Inception V3 and ResNet V2 on ImageNet"
CLAIM = ("On ImageNet it follows the tuned optimizers for the first 10,000 to 20,000 steps; then "
         "it stops making progress.")
SMALL = "resnetv2_small"


@dataclasses.dataclass(frozen=True)
class ImagenetRun:
    """One run of `python -m eval imagenet`.

    Attributes:
        model: as there; `SMALL` is trained on generated images.
        optimizer, steps, learning_rate, seed, batch_size: as there.
        weights: of the learned optimizer.
        folder: where TFDS has ImageNet.
    """

    KEYS: ClassVar[frozenset[str]] = frozenset({"curve", "diverged"})

    model: str
    optimizer: str
    steps: int
    learning_rate: float | None = None
    seed: int = 0
    batch_size: int = 32
    weights: str | None = None
    folder: str | None = None

    @property
    def title(self) -> str:
        """A short readable name; two runs may share it."""
        rate = "" if self.learning_rate is None else f"-{self.learning_rate:g}"
        return f"{self.model}-{self.optimizer}{rate}-{self.steps}-{self.seed}"

    def configuration(self, data: Data) -> dict[str, Any]:
        """Everything that the result depends on."""
        values = {**dataclasses.asdict(self), "weights_sha256": learned_checksum(self)}
        return {name: value for name, value in values.items() if name != "folder"}

    def execute(self, data: Data) -> dict[str, Any]:
        """Train, in a program of its own."""
        flags = {
            "model": self.model, "optimizer": self.optimizer, "steps": self.steps,
            "seed": self.seed, "batch_size": self.batch_size, "learning_rate": self.learning_rate,
            "weights": self.weights, "data_dir": self.folder}
        given = [f"--{name}={value}" for name, value in flags.items() if value is not None]
        if self.folder is None:
            given.append("--synthetic")
        with tempfile.TemporaryDirectory() as folder:
            # A loss that is not finite is in the file, where the program's own output has none.
            out = Path(folder, "run")
            done = subprocess.run(
                [sys.executable, "-m", "eval", "imagenet", *given, f"--out={out}"],
                stdout=subprocess.DEVNULL, check=False)
            if not (out / "result.json").exists():
                raise RuntimeError(f"{self.title} ended with exit code {done.returncode}.")
            (result,) = json.loads((out / "result.json").read_text())
        curve = [[step, loss] for step, loss in result["curve"] if math.isfinite(loss)]
        diverged = len(curve) < len(result["curve"])
        return {
            "curve": curve, "final_training_loss": None if diverged else curve[-1][1],
            "diverged": diverged, "seconds": self.steps * (result["step_seconds"] or 0.0),
            **self.configuration(data)}


def measure(context: Context) -> dict[str, Any]:
    """The paper's networks where ImageNet is at hand; else a small one on generated images."""
    budget = context.budget
    real = context.imagenet_dir is not None
    models = ("inceptionv3", "resnet50v2") if real else (SMALL,)
    common = {"folder": context.imagenet_dir, "batch_size": 32}
    store = context.store()
    panels = {}
    for model in models:
        learned = {
            name: ImagenetRun(model, optimizers.LEARNED, budget.imagenet_steps, weights=weights,
                              **common) for name, weights in context.weights.items()}
        searched = {
            name: [ImagenetRun(model, name, budget.imagenet_steps, rate, **common)
                   for rate in budget.rates] for name in optimizers.BASELINES}
        store.results(
            [*learned.values(), *(run for runs in searched.values() for run in runs)], model)
        series = [{"name": name, "kind": "learned", "learning_rate": None,
                   **compare.quartiles(store.results([run]))} for name, run in learned.items()]
        for name, runs in searched.items():
            found = [{"name": compare.NAMES[name], "kind": "tuned",
                      "learning_rate": run.learning_rate, **compare.quartiles([result])}
                     for run, result in zip(runs, store.results(runs))]
            series.append(min(found, key=compare.final))
        panels[model] = series
    return {"panels": panels, "table": compare.table(panels), "seeds": [0],
            "grid_seeds": [0],
            "data": "ImageNet" if real else "generated images of 32 x 32 pixels",
            "verdict": compare.verdict_of_each(
                list(context.weights), lambda name: verdict(panels, name, real))}


def verdict(panels: dict[str, list[compare.Series]], name: str, real: bool) -> dict[str, Any]:
    """It can be told on ImageNet only: whether it ends at most 1.1 times as high as the best."""
    ratios = {
        model: compare.final(compare.named(series, name))
        / compare.final(compare.best(series, "tuned")) for model, series in panels.items()}
    said = " and ".join(f"{ratio:.2f} times the best tuned loss on {model}"
                        for model, ratio in ratios.items())
    if not real:
        return {"holds": None, "sentence":
                f"ImageNet was not at hand. On generated images it ends at {said}."}
    return {"holds": max(ratios.values()) <= 1.1, "sentence": f"It ends at {said}."}


def draw(measured: dict[str, Any]) -> Any:
    """A panel for each network."""
    panels = measured["panels"]
    figure, axes = pictures.panels(1, len(panels), width=4.6, height=3.4)
    for axis, (model, series) in zip(axes.flat, panels.items()):
        compare.draw(axis, series, model)
    axes[0, 0].set_ylabel("training loss")
    return figure
