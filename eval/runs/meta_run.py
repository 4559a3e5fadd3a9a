"""A run of meta-training as data, as `eval.runs.run` has the training runs."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import time
from typing import Any, ClassVar

from eval.runs.data import Data

# What the first learned optimizer was meta-trained on, one problem: an MLP of 20 sigmoid units on
# MNIST; and a pair of problems on which ablations can be told apart in minutes.
ONE_MLP, PAIR = "one_mlp", "ablation_pair"


@dataclasses.dataclass(frozen=True)
class MetaRun:
    """One run of the meta-training engine.

    Attributes:
        name: for people.
        config: a `train.config.TrainConfig` as JSON; its suite may be `ONE_MLP` or `PAIR`.
        horizon: inner steps of the runs that it is evaluated on, from fixed starts.
        evaluations: how often, evenly spaced, the last time at the end.
    """

    KEYS: ClassVar[frozenset[str]] = frozenset({"curve", "diverged", "safetensors"})

    name: str
    config: str
    horizon: int
    evaluations: int

    @property
    def title(self) -> str:
        """A short readable name; two runs may share it."""
        config = json.loads(self.config)
        return f"meta-{self.name}-{config['steps']}-{config['seed']}".replace(" ", "_")

    def configuration(self, data: Data) -> dict[str, Any]:
        """Everything that the result depends on; the data only where they are trained on."""
        of_data = json.loads(self.config)["suite"] == ONE_MLP
        return {**dataclasses.asdict(self), "data": data.fingerprint if of_data else None}

    def execute(self, data: Data) -> dict[str, Any]:
        """Meta-train.

        Returns:
            `curve`, pairs of meta-step and meta-objective (log, mean over the runs from fixed
            starts, whatever the training's own objective); `diverged`; `safetensors`, the weights,
            in base64; `seconds`; and the configuration.
        """
        from train.config import TrainConfig
        from train.trainer import Trainer

        began = time.perf_counter()
        _add_suites(data)
        config = TrainConfig(**json.loads(self.config))
        trainer = Trainer(config)
        evaluate = _evaluation(trainer, self.horizon)
        every = max(1, config.steps // self.evaluations)
        curve = [[0, evaluate(trainer.meta)]]
        while trainer.step < config.steps:
            trainer.run_step()
            if (config.steps - trainer.step) % every == 0:
                curve.append([trainer.step, evaluate(trainer.average)])
        return {
            "curve": curve,
            "diverged": not math.isfinite(curve[-1][1]),
            "safetensors": base64.b64encode(trainer.weights_file().to_bytes()).decode("ascii"),
            "seconds": round(time.perf_counter() - began, 2),
            **self.configuration(data),
        }


def weights(result: dict[str, Any]) -> bytes:
    """The content of the weights file of a result."""
    return base64.b64decode(result["safetensors"])


def _add_suites(data: Data) -> None:
    import problems
    from problems.datasets import Digits, RandomMLP
    from problems.mnist import MNIST

    if ONE_MLP in problems.suite_names():
        return
    settings = {"activation": "sigmoid", "batch_size": 128, "l2": 0.0}
    if data.folder:
        pixels = data.x_train[0].size
        settings |= {"data": MNIST(data_dir=data.folder), "samples": min(2000, len(data.y_train))}
    else:
        pixels = 64
        settings |= {"data": Digits(), "samples": 1000}
    problems.add_suite(ONE_MLP, lambda: [problems.FullyConnected(pixels, 10, (20,), **settings)])
    problems.add_suite(PAIR, lambda: [
        problems.Quadratic(20, noise_stdev=0.5),
        problems.FullyConnected(12, 2, (16,), data=RandomMLP(), samples=200, batch_size=10)])


def _evaluation(trainer: Any, horizon: int) -> Any:
    """A function of meta-parameters that gives the mean log meta-objective from fixed starts."""
    import jax
    import numpy as np

    from train.tasks import Family

    config = dataclasses.replace(
        trainer.config, objective="log", run_range=(horizon, horizon), run_length="log_uniform",
        models=4)
    families = [Family(family.specs, trainer.network, config) for family in trainer.families]
    starts = [jax.jit(family.draw)(jax.random.key(11)) for family in families]
    unrolls = [jax.jit(lambda meta, tasks, family=family: family.unroll(meta, tasks, horizon)[0])
               for family in families]

    def evaluate(meta: Any) -> float:
        return float(np.mean([unroll(meta, start) for unroll, start in zip(unrolls, starts)]))

    return evaluate
