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


def family(network: Any, suite: str, number: int, steps: int, every: int, **options: Any) -> Family:
    """One task as it is trained on, in runs of so many steps at a time and in all.

    Args:
        network: inside its rules.
        suite, number: where the task is.
        options: of `TrainConfig`.
    """
    return Family([list(problems.suite(suite))[number]], network, TrainConfig(
        learning_rate=(8e-3, 8e-3), run_range=(steps, steps), unroll=every, objective_every=every,
        **{"models": RUNS, **options}))


def curves(
    network: Any, meta: Mapping[str, Any], suite: str, steps: int, numbers: Sequence[int],
    variants: Mapping[str, tuple[float, Mapping[str, Any]]], every: int = EVERY, **options: Any,
) -> Iterator[dict[str, np.ndarray]]:
    """For each task, by variant, log(f / f_0 + 1e-6) of the same runs, (steps / every, RUNS). A
    task compiles once.

    Args:
        network: inside its rules.
        meta: its meta-parameters.
        suite, numbers: where the tasks are, and which they are.
        steps: of a run, a multiple of `every`.
        variants: a factor of the learning rate, and the meta-parameters that are others.
        every: steps between points.
        options: of `TrainConfig`.
    """
    for number in numbers:
        task = family(network, suite, number, steps, every, **options)

        def run(meta, runs, task=task):
            def truncation(runs, _):
                runs = task.unroll(meta, runs, every)[1]
                return runs, task.objective(runs.instance, runs.place) / runs.first_objective

            return jax.lax.scan(truncation, runs, None, steps // every)[1]

        draw, program = (
            jax.jit(function, compiler_options=_QUICKLY) for function in (task.draw, run))
        start, found = draw(jax.random.key(11)), {}
        for name, (factor, changed) in variants.items():
            shares = np.asarray(program(
                {**meta, **{key: jnp.float32(value) for key, value in changed.items()}},
                start._replace(learning_rate=factor * start.learning_rate)))
            found[name] = np.log(np.where(np.isfinite(shares), shares, 1.0) + 1e-6)
        yield found


def losses(*arguments: Any, **options: Any) -> Iterator[dict[str, np.ndarray]]:
    """The last points of `curves`, (RUNS,); arguments as there."""
    for found in curves(*arguments, **options):
        yield {name: curve[-1] for name, curve in found.items()}


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
