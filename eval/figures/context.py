"""What a figure is given: how much it may compute, on what data, and where results are kept."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

from eval.runs import data as data_lib
from eval.runs import grid_search, problem_run
from eval.runs.data import Data
from eval.runs.networks import PAPER
from eval.runs.store import Store
from eval.runs.workers import Workers


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much is computed.

    Attributes:
        examples: of the training set; None: all.
        networks: of figure 4a.
        steps: of the fully connected networks.
        conv_steps: of the convolutional ones, a step of which costs some twenty times as much.
        others: networks beyond the paper.
        other_steps: of these.
        seeds: of every result that is shown.
        grid_seeds: of the search for learning rates.
        rates: that search.
        swept: learning rates of figure 5.
        problems: of figure 3, from the meta-training set.
        problem_steps: of these.
        instances: new ones of each of those problems.
        lstm_meta_steps: meta-training of the coordinatewise LSTM.
        carry_over_steps: of figure 2; a step of that LSTM costs ten times as much as one of ours.
        ablations: how many of them.
        meta_steps: meta-training of each ablation.
        meta_seeds: of the ablations.
        batch_sizes: of figure 7, for the convnet.
        resnet_batch_sizes: likewise, for ResNet50V2.
        imagenet_steps: of figure 4b.
        switch_network: of figure `switch`, beside an ellipse.
        switch_steps: of that network.
    """

    examples: int | None
    networks: tuple[str, ...]
    steps: int
    conv_steps: int
    others: tuple[str, ...]
    other_steps: int
    seeds: tuple[int, ...]
    grid_seeds: tuple[int, ...]
    rates: tuple[float, ...]
    swept: tuple[float, ...]
    problems: tuple[str, ...]
    problem_steps: int
    instances: int
    lstm_meta_steps: int
    carry_over_steps: int
    ablations: int
    meta_steps: int
    meta_seeds: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    resnet_batch_sizes: tuple[int, ...]
    imagenet_steps: int
    switch_network: str
    switch_steps: int


_OTHERS = ("conv_bn_relu", "rows_gru", "autoencoder", "transformer")
_DECADES = tuple(10.0**k for k in range(-6, 0))
_HALF_DECADES = tuple(float(f"{10 ** (k / 2):.3g}") for k in range(-12, -1))
BUDGETS = {
    "smoke": Budget(
        examples=600, networks=("mlp_relu",), steps=50, conv_steps=2, others=("autoencoder",),
        other_steps=20, seeds=(0,), grid_seeds=(0,), rates=(1e-2,), swept=(1e-4, 1e-2),
        problems=("quadratic",), problem_steps=20, instances=2, lstm_meta_steps=2,
        carry_over_steps=50, ablations=1, meta_steps=2, meta_seeds=(0,), batch_sizes=(2,),
        resnet_batch_sizes=(), imagenet_steps=2,
        switch_network="resnet18_narrow", switch_steps=2),
    "small": Budget(
        examples=10_000, networks=PAPER, steps=1000, conv_steps=200, others=_OTHERS,
        other_steps=200, seeds=(0, 1, 2), grid_seeds=(0,),
        rates=(1e-3, 3.16e-3, 1e-2, 3.16e-2, 1e-1, 3.16e-1), swept=_DECADES,
        problems=problem_run.NAMES, problem_steps=1000, instances=16, lstm_meta_steps=200,
        carry_over_steps=200, ablations=15, meta_steps=60, meta_seeds=(0, 1, 2),
        batch_sizes=(1, 8, 64, 512), resnet_batch_sizes=(), imagenet_steps=60,
        switch_network="resnet18_narrow", switch_steps=200),
    "full": Budget(
        examples=None, networks=PAPER, steps=10_000, conv_steps=10_000, others=_OTHERS,
        other_steps=10_000, seeds=(0, 1, 2, 3, 4), grid_seeds=(0, 1, 2),
        rates=grid_search.LEARNING_RATES, swept=_HALF_DECADES, problems=problem_run.NAMES,
        problem_steps=5000, instances=64, lstm_meta_steps=5000, carry_over_steps=10_000,
        ablations=15, meta_steps=2000, meta_seeds=(0, 1, 2, 3, 4),
        batch_sizes=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
        resnet_batch_sizes=(1, 4, 16, 64), imagenet_steps=20_000,
        switch_network="resnet18", switch_steps=10_000),
}


class Context:
    """What `measure` of a figure works with; use it as a context.

    Args:
        budget: one of `BUDGETS`.
        data_dir: of MNIST; None: scikit-learn's digits in its place.
        folder: of the results.
        processes: that runs are shared out to.
        weights: of learned optimizers, by the names that are shown.
        imagenet_dir: where TFDS has ImageNet; None: generated images in its place.

    Attributes:
        images: what classifiers are trained on.
        seconds: what each run took whose result was asked for, by its path.
    """

    def __init__(
        self, budget: str, data_dir: str | None, folder: str | os.PathLike[str], processes: int,
        weights: dict[str, str], imagenet_dir: str | None = None,
    ) -> None:
        self.budget = BUDGETS[budget]
        self.folder = Path(folder)
        self.weights = weights
        self.imagenet_dir = imagenet_dir
        self.images = data_lib.load(data_dir) if data_dir else data_lib.digits()
        if self.budget.examples:
            self.images = self.images.part(min(self.budget.examples, len(self.images.y_train)))
        self.seconds: dict[Path, float] = {}
        self.workers = Workers(processes, self.folder / "compiled")

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.workers.__exit__(*exception)

    def store(self, data: Data | None = None) -> Store:
        """The results of runs on these data (None: the images)."""
        return Store(self.folder, self.images if data is None else data, self.workers,
                     self.seconds)

    def store_alone(self) -> Store:
        """The same, for runs that must not run beside others."""
        return Store(self.folder, self.images, seconds=self.seconds)

    def weights_file(self, content: bytes) -> str:
        """The path of a weights file with this content."""
        path = self.folder / "weights" / f"{hashlib.sha256(content).hexdigest()[:12]}.safetensors"
        if not path.exists():
            from hrnn_opt.files.atomic import write_atomic

            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, content)
        return str(path)


