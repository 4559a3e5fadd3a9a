"""Runs of optimizers on the problems of a suite, as a user's optimizer takes them."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any, ClassVar

from eval.runs import optimizers
from eval.runs.data import Data
from eval.runs.problem_run import LOWEST, built, parts
from eval.runs.run import learned_checksum, weights_name

POINTS = 50


@functools.cache
def tasks(suite: str) -> list[Any]:
    """The problems of a suite, in its order."""
    import problems

    return list(problems.suite(suite))


@dataclasses.dataclass(frozen=True)
class SuiteRun:
    """Runs of one optimizer on one problem.

    Attributes:
        suite: of `problems`.
        number: of the problem in it.
        steps: number of steps, a multiple of `POINTS`.
        instances: each a draw of data, start and minibatches of its own.
        weights: of the learned optimizer; None for others.
        seed: draws the instances.
        optimizer: one of `eval.runs.optimizers.OPTIMIZERS`.
        learning_rate: None leaves the optimizer, or the weights, their own.
        schedule: one of `eval.runs.optimizers.SCHEDULES`.
    """

    KEYS: ClassVar[frozenset[str]] = frozenset({"steps_of_points", "curves"})

    suite: str
    number: int
    steps: int
    instances: int
    weights: str | None = None
    seed: int = 1000
    optimizer: str = optimizers.LEARNED
    learning_rate: float | None = None
    schedule: str = "constant"

    @property
    def problem(self) -> Any:
        """What is trained."""
        return tasks(self.suite)[self.number]

    @property
    def title(self) -> str:
        """A short readable name; two runs may share it."""
        name = self.weights.replace("/", "_") if self.weights else self.optimizer
        return f"{self.suite}-{self.number}-{name}-{self.steps}"

    def configuration(self, data: Data) -> dict[str, Any]:
        """Everything that the result depends on; `data` are not."""
        configuration = {
            **dataclasses.asdict(self), "problem": repr(self.problem),
            "weights": weights_name(self), "weights_sha256": learned_checksum(self)}
        # Of results from before there was a choice.
        usual = {"learning_rate": None, "schedule": "constant"}
        return {key: value for key, value in configuration.items()
                if key not in usual or value != usual[key]}

    def execute(self, data: Data) -> dict[str, Any]:
        """Train.

        Returns:
            `steps_of_points`, (P,) steps; `curves`, (instances, P) objectives on all data relative
            to the start (None where not finite); `step_seconds`, the median over all parts between
            two points of the CPU seconds of a step, of all threads, its minibatch too but no
            compiling and no objective; `seconds` of all; and the configuration.
        """
        import jax
        import numpy as np

        began = time.perf_counter()
        every = self.steps // POINTS
        keys = jax.random.split(jax.random.key(self.seed), self.instances)
        sample, objective = jax.jit(self.problem.sample_instance), jax.jit(self.problem.objective)
        learned = {"weights": self.weights, "seed": self.seed} if (
            self.optimizer == optimizers.LEARNED) else {}
        curves, spans, compiled = [], [], None
        # One after the other: side by side, what is done at some steps would be done at all.
        for key in keys:
            instance = sample(key)
            start = self.problem.initial_parameters(jax.random.fold_in(key, 1), instance)
            variables, optimizer = built(
                self.optimizer, [np.asarray(tensor) for tensor in start], steps=self.steps,
                learning_rate=self.learning_rate, schedule=self.schedule, **learned)
            carry = list(start), [jax.numpy.asarray(np.asarray(v)) for v in optimizer.variables]
            drawn = jax.random.key_data(key)
            if compiled is None:
                advance, evaluate = parts(self.problem, variables, optimizer, every)
                compiled = (
                    jax.jit(advance).lower(drawn, instance, carry, jax.numpy.int32(0)).compile(),
                    jax.jit(evaluate).lower(instance, carry).compile())
            first, curve = objective(start, instance), []
            for number in range(POINTS):
                at = time.process_time()
                carry = jax.block_until_ready(
                    compiled[0](drawn, instance, carry, jax.numpy.int32(number)))
                spans.append(time.process_time() - at)
                curve.append(float(compiled[1](instance, carry) / first))
            curves.append(curve)
        return {
            "steps_of_points": [every * (i + 1) for i in range(POINTS)],
            "curves": [[float(f"{max(y, LOWEST):.6g}") if np.isfinite(y) else None for y in curve]
                       for curve in curves],
            "step_seconds": float(f"{np.median(spans) / every:.3g}"),
            "seconds": round(time.perf_counter() - began, 2),
            **self.configuration(data),
        }
