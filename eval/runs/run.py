"""A training run as data: what decides its numbers, and nothing else."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.resources
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import keras

from eval.runs import networks, optimizers, practice
from eval.runs.data import Data


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        network: one of `eval.runs.networks.NETWORKS` or `OTHERS`, or of `eval.runs.practice.TASKS`.
        optimizer: one of `eval.runs.optimizers.OPTIMIZERS`.
        steps: number of steps.
        learning_rate: None leaves the optimizer its own.
        schedule: one of `eval.runs.optimizers.SCHEDULES`.
        batch_size: examples a step.
        seed: draws the start values, the minibatches and what is random in the optimizer.
        weights: of the learned optimizer; None leaves it its own.
        initial_learning_rate, state_dtype: likewise.
        options: further arguments of the optimizer, as pairs of a name and what it is.
        accuracies: whether the result has an `accuracy_curve`.
    """

    KEYS: ClassVar[frozenset[str]] = frozenset({"final_training_loss", "curve", "diverged"})

    network: str
    optimizer: str
    steps: int
    learning_rate: float | None = None
    schedule: str = "constant"
    batch_size: int = 64
    seed: int = 0
    weights: str | None = None
    initial_learning_rate: float | None = None
    state_dtype: str | None = None
    options: tuple[tuple[str, Any], ...] = ()
    accuracies: bool = False

    @property
    def title(self) -> str:
        """A short readable name; two runs may share it."""
        parts = [self.network, self.optimizer, weights_name(self), self.schedule,
                 self.learning_rate, self.initial_learning_rate, self.state_dtype, self.steps,
                 self.seed, *(f"{name}={value}" for name, value in self.options)]
        return "-".join(f"{part:g}" if isinstance(part, float) else str(part)
                        for part in parts if part is not None)

    def configuration(self, data: Data) -> dict[str, Any]:
        """Everything that the result depends on: the weights by content, since a name's change."""
        configuration = {**dataclasses.asdict(self), "weights": weights_name(self),
                         "weights_sha256": learned_checksum(self), "data": data.fingerprint,
                         "backend": keras.backend.backend(), "options": dict(self.options)}
        # Of results from before there was a choice.
        usual = {"backend": "jax", "state_dtype": None, "options": {}, "accuracies": False}
        return {key: value for key, value in configuration.items()
                if key not in usual or value != usual[key]}

    def model(self, data: Data) -> keras.Model:
        """What is trained, as it starts."""
        task = practice.TASKS.get(self.network)
        return networks.build(task.network if task else self.network, data.x_train.shape[1:],
                              int(data.y_train.max()) + 1, self.seed)

    def execute(self, data: Data, on_progress: Callable[[int], Any] | None = None,
                ) -> dict[str, Any]:
        """Train; the result of `eval.runs.runner.train` and the configuration."""
        from eval.runs import runner

        task = practice.TASKS.get(self.network)
        # Before the model, which seeds what is drawn.
        seen = task.seen() if task and task.seen else data
        model = self.model(data)
        learned = {
            **{name: getattr(self, name) for name in optimizers.LEARNED_SETTINGS},
            "seed": self.seed} if self.optimizer == optimizers.LEARNED else {}
        optimizer = optimizers.build(
            self.optimizer, learning_rate=self.learning_rate, schedule=self.schedule,
            steps=self.steps, **learned, **dict(self.options))
        result = runner.train(model, optimizer, seen, steps=self.steps, batch_size=self.batch_size,
                              seed=self.seed, on_progress=on_progress,
                              accuracies=self.accuracies)
        return {**result, **self.configuration(data)}


def weights_name(run: Any) -> str | None:
    """That of a run's weights, without the folder: it may move, or be another in the next store."""
    return run.weights and Path(run.weights).name


def learned_checksum(run: Any) -> str | None:
    """That of the weights which a run's optimizer goes by; None where it is no learned one."""
    return weights_checksum(run.weights) if run.optimizer == optimizers.LEARNED else None


@functools.cache
def weights_checksum(weights: str | None) -> str:
    """Weights by the bytes of their file, or of the one that would hold them; None stands for the
    default ones.

    Bytes that would be written today say what the program knows, a new switch of the config too:
    by them a result would be lost at each change of the format.
    """
    name = weights or "default"
    shipped = importlib.resources.files("hrnn_opt") / "pretrained" / f"{name}.safetensors"
    for file in (shipped, Path(name)):
        if file.is_file():
            return _digest(file.read_bytes())
    from hrnn_opt.files.resolve import resolve

    return _digest(resolve(name).to_bytes())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
