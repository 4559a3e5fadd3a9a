"""Meta-validation: long runs of networks that are in no meta-training suite."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

import problems
from hrnn_opt.interface import LearnedOptimizer
from problems.datasets import RandomMLP, Teacher
from train.config import TrainConfig
from train.tasks import Family, Meta

STEPS = 2000


def networks() -> list[problems.Problem]:
    """What is trained in validation: other data than in the suites, and so much more of it that the
    noise of minibatches stays, as it does in training at large."""
    return [
        problems.FullyConnected(
            32, 10, (64,), activation="relu", data=Teacher(), samples=16384, batch_size=64, l2=0.0),
        problems.FullyConnected(
            32, 10, (64,), activation="sigmoid", data=Teacher(), samples=16384, batch_size=64,
            l2=0.0),
        problems.FullyConnected(
            20, 2, (48, 48), activation="tanh", data=RandomMLP(), samples=16384, batch_size=32,
            init="glorot", l2=0.0),
    ]


class Validator:
    """Trains the validation networks with given meta-parameters, always from the same starts.

    Args:
        config: of the training run; its lengths and learning rates are replaced by fixed ones.
        network: whose step is taken.
    """

    def __init__(self, config: TrainConfig, network: LearnedOptimizer) -> None:
        rates, initial = (
            float(np.sqrt(low * high)) for low, high in (
                config.learning_rate, config.initial_learning_rate))
        self.config = dataclasses.replace(
            config, models=2, learning_rate=(rates, rates),
            initial_learning_rate=(initial, initial), run_length="log_uniform",
            run_range=(STEPS, STEPS), unroll=100, objective_every=50, objective="log")
        self.families = [Family([problem], network, self.config) for problem in networks()]
        self._starts = [jax.jit(family.draw)(jax.random.key(7)) for family in self.families]
        self._runs = [jax.jit(functools.partial(self._run, family)) for family in self.families]

    @staticmethod
    def _run(family: Family, meta: Meta, tasks: object) -> tuple[jax.Array, jax.Array]:
        def truncation(tasks: object, _: None) -> tuple[object, jax.Array]:
            losses, tasks = family.unroll(meta, tasks, family.config.unroll)
            return tasks, losses

        tasks, losses = jax.lax.scan(truncation, tasks, None, STEPS // family.config.unroll)
        final = family.objective(tasks.instance, tasks.place)
        ratio = jnp.where(jnp.isfinite(final), final, 1e9) / tasks.first_objective
        return jnp.mean(losses), jnp.mean(jnp.log(jnp.minimum(ratio, 1e9) + 1e-6))

    def __call__(self, meta: Meta) -> dict[str, float | list[float]]:
        """Mean log loss relative to the start: over the runs, at their ends, and their mean, the
        score to select by."""
        curves, ends = zip(*(
            run(meta, start) for run, start in zip(self._runs, self._starts)))
        curve, end = float(np.mean(curves)), float(np.mean(ends))
        return {"score": (curve + end) / 2, "curve": curve, "end": end,
                "ends": [round(float(e), 4) for e in ends]}
