"""Runs of learned weights on the problems of a suite, as a user's optimizer takes them."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any, ClassVar

from eval.runs import optimizers
from eval.runs.data import Data
from eval.runs.problem_run import LOWEST, built, training
from eval.runs.run import learned_checksum, weights_name

POINTS = 50


@functools.cache
def tasks(suite: str) -> list[Any]:
    """The problems of a suite, in its order."""
    import problems

    return list(problems.suite(suite))


@dataclasses.dataclass(frozen=True)
class SuiteRun:
    """Runs of one set of weights on one problem, at the learning rate that belongs to them.

    Attributes:
        suite: of `problems`.
        number: of the problem in it.
        steps: number of steps, a multiple of `POINTS`.
        instances: each a draw of data, start and minibatches of its own.
        seed: draws the instances.
        weights: of the learned optimizer.
        optimizer: of `eval.runs.optimizers`.
    """

    KEYS: ClassVar[frozenset[str]] = frozenset({"steps_of_points", "curves"})

    suite: str
    number: int
    steps: int
    instances: int
    weights: str
    seed: int = 1000
    optimizer: str = optimizers.LEARNED

    @property
    def problem(self) -> Any:
        """What is trained."""
        return tasks(self.suite)[self.number]

    @property
    def title(self) -> str:
        """A short readable name; two runs may share it."""
        return f"{self.suite}-{self.number}-{self.weights.replace('/', '_')}-{self.steps}"

    def configuration(self, data: Data) -> dict[str, Any]:
        """Everything that the result depends on; `data` are not."""
        return {**dataclasses.asdict(self), "problem": repr(self.problem),
                "weights": weights_name(self), "weights_sha256": learned_checksum(self)}

    def execute(self, data: Data) -> dict[str, Any]:
        """Train.

        Returns:
            `steps_of_points`, (P,) steps; `curves`, (instances, P) objectives on all data relative
            to the start (None where not finite); `seconds`; and the configuration.
        """
        import jax
        import numpy as np

        began = time.perf_counter()
        every = self.steps // POINTS
        keys = jax.random.split(jax.random.key(self.seed), self.instances)
        sample = jax.jit(self.problem.sample_instance)
        curves, train = [], None
        # One after the other: side by side, what is done at some steps would be done at all.
        for key in keys:
            instance = sample(key)
            start = self.problem.initial_parameters(jax.random.fold_in(key, 1), instance)
            variables, optimizer = built(
                self.optimizer, [np.asarray(tensor) for tensor in start],
                weights=self.weights, seed=self.seed)
            if train is None:
                train = jax.jit(training(self.problem, variables, optimizer, every, POINTS))
            state = [np.asarray(variable) for variable in optimizer.variables]
            curves.append(np.asarray(
                train(jax.random.key_data(key), instance, start, state), "float64"))
        return {
            "steps_of_points": [every * (i + 1) for i in range(POINTS)],
            "curves": [[float(f"{max(y, LOWEST):.6g}") if np.isfinite(y) else None for y in curve]
                       for curve in curves],
            "seconds": round(time.perf_counter() - began, 2),
            **self.configuration(data),
        }
