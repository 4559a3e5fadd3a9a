"""Losses of an optimizer with some of its numbers changed, beside those without: what scans of
numbers have in common."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

import problems
from train.config import TrainConfig
from train.tasks import Family

EVERY = 200
RUNS = 3
# Compiling takes longer than running.
_QUICKLY = {"xla_cpu_use_fusion_emitters": False}


def add_numbers(of: Any, start: Mapping[str, float]) -> None:
    """Give a network or rule these scalars as meta-parameters, which are attributes too."""
    for name, value in start.items():
        setattr(of, name, of.add_weight(
            name=name, shape=(), initializer=keras.initializers.Constant(value)))


def losses(
    network: Any, meta: Mapping[str, Any], suite: str, steps: int, numbers: Sequence[int],
    variants: Mapping[str, tuple[float, Mapping[str, Any]]], schedule: str = "constant",
    horizon: str = "unknown",
) -> Iterator[dict[str, np.ndarray]]:
    """For each task, by variant, log(f / f_0 + 1e-6) at the end of the same runs. A task compiles
    once.

    Args:
        network: inside its rules.
        meta: its meta-parameters.
        suite, numbers: where the tasks are, and which they are.
        steps: of a run, a multiple of 200.
        variants: a factor of the learning rate, and the meta-parameters that are others.
        schedule: of the learning rate.
        horizon: what the optimizer is told of it, as in `TrainConfig`.
    """
    tasks = list(problems.suite(suite))
    config = TrainConfig(
        models=RUNS, learning_rate=(8e-3, 8e-3), learning_rate_schedule=schedule,
        run_range=(steps, steps), unroll=EVERY, objective_every=EVERY, horizon=horizon)
    for number in numbers:
        family = Family([tasks[number]], network, config)

        def run(meta, runs, family=family):
            runs, _ = jax.lax.scan(
                lambda runs, _: (family.unroll(meta, runs, EVERY)[1], None), runs, None,
                steps // EVERY)
            return family.objective(runs.instance, runs.place) / runs.first_objective

        draw, program = (
            jax.jit(function, compiler_options=_QUICKLY) for function in (family.draw, run))
        start = draw(jax.random.key(11))
        ends = {}
        for name, (factor, changed) in variants.items():
            found = np.asarray(program(
                {**meta, **{key: jnp.float32(value) for key, value in changed.items()}},
                start._replace(learning_rate=factor * start.learning_rate)))
            ends[name] = np.log(np.where(np.isfinite(found), found, 1.0) + 1e-6)
        yield ends


def show(ends: Sequence[Mapping[str, np.ndarray]], against: str) -> None:
    """Print a row for each variant: the mean over tasks, its standard error, and each task.

    Args:
        ends: of each task, as `losses` gives them.
        against: the variant that the others are compared to.
    """
    for name in ends[0]:
        means = np.array([np.mean(of_task[name] - of_task[against]) for of_task in ends])
        error = means.std(ddof=1) / math.sqrt(len(means)) if len(means) > 1 else math.nan
        print(f"{name:28s} {means.mean():+.3f} ({error:.3f})  {np.round(means, 3)}", flush=True)
