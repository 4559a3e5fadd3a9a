"""Runs on problems of the meta-training set, as `eval.runs.run` has those on images."""

from __future__ import annotations

import dataclasses
import time
from types import SimpleNamespace
from typing import Any, ClassVar

from eval.runs import optimizers
from eval.runs.data import Data
from eval.runs.run import learned_checksum, weights_name

POINTS = 50
# Objectives relative to the start are not told apart below.
LOWEST = 1e-10


def _problems() -> dict[str, Any]:
    import problems
    from problems.datasets import Clusters, RandomMLP

    return {
        "quadratic": problems.Quadratic(50),
        "noisy Rosenbrock": problems.Rosenbrock(noise_stdev=1.0),
        "softmax regression": problems.SoftmaxRegression(
            100, data=Clusters(sep=1.5), batch_size=50),
        "MLP": problems.FullyConnected(9, 2, (32,), data=RandomMLP(), batch_size=128),
        "Beale": problems.Beale(),
        "Matyas": problems.Matyas(),
    }


NAMES = ("quadratic", "noisy Rosenbrock", "softmax regression", "MLP", "Beale", "Matyas")


@dataclasses.dataclass(frozen=True)
class ProblemRun:
    """Runs of one optimizer at several learning rates, each on the same instances side by side.

    Attributes:
        problem: one of `NAMES`.
        optimizer: one of `eval.runs.optimizers.OPTIMIZERS`.
        steps: number of steps, a multiple of `POINTS` unless below it.
        instances: new ones, with a start and noise of their own.
        rates: learning rates; None leaves the optimizer its own.
        seed: draws the instances.
        weights: of the learned optimizer; None leaves it its own.
        initial: the rates are initial learning rates.
    """

    KEYS: ClassVar[frozenset[str]] = frozenset({"steps_of_points", "curves"})

    problem: str
    optimizer: str
    steps: int
    instances: int
    rates: tuple[float | None, ...] = (None,)
    seed: int = 1000
    weights: str | None = None
    initial: bool = False

    @property
    def title(self) -> str:
        """A short readable name; two runs may share it."""
        return f"{self.problem}-{self.optimizer}-{self.steps}".replace(" ", "_")

    def configuration(self, data: Data) -> dict[str, Any]:
        """Everything that the result depends on; `data` are not."""
        return {**dataclasses.asdict(self), "rates": list(self.rates),
                "weights": weights_name(self), "weights_sha256": learned_checksum(self)}

    def execute(self, data: Data) -> dict[str, Any]:
        """Train.

        Returns:
            `steps_of_points`, (P,) steps; `curves`, (rates, instances, P) objectives without noise
            relative to the start (None where not finite); `seconds`; and the configuration.
        """
        import jax
        import numpy as np

        began = time.perf_counter()
        problem = _problems()[self.problem]
        every = max(1, self.steps // POINTS)
        keys = jax.random.split(jax.random.key(self.seed), self.instances)
        instances = jax.jit(jax.vmap(problem.sample_instance))(keys)
        starts = jax.vmap(lambda key, instance: problem.initial_parameters(
            jax.random.fold_in(key, 1), instance))(keys, instances)
        cases = [self._built(rate, [np.asarray(tensor[i]) for tensor in starts])
                 for rate in self.rates for i in range(self.instances)]
        train = jax.jit(jax.vmap(training(problem, *cases[0], every, self.steps // every)))
        states = jax.tree.map(
            lambda *values: np.stack(values),
            *([np.asarray(variable) for variable in optimizer.variables]
              for _, optimizer in cases))
        repeated = jax.tree.map(
            lambda leaf: np.concatenate([np.asarray(leaf)] * len(self.rates)),
            (jax.vmap(jax.random.key_data)(keys), instances, starts))
        curves = np.asarray(train(*repeated, states), "float64")
        curves = curves.reshape(len(self.rates), self.instances, -1)
        return {
            "steps_of_points": [every * (i + 1) for i in range(self.steps // every)],
            "curves": [[[float(f"{max(y, LOWEST):.6g}") if np.isfinite(y) else None for y in curve]
                        for curve in of_rate] for of_rate in curves],
            "seconds": round(time.perf_counter() - began, 2),
            **self.configuration(data),
        }

    def _built(self, rate: float | None, start: list[Any]) -> tuple[list[Any], Any]:
        name = "initial_learning_rate" if self.initial else "learning_rate"
        settings = {"learning_rate": None, name: rate}
        if self.optimizer == optimizers.LEARNED:
            settings |= {"weights": self.weights, "seed": self.seed}
        return built(self.optimizer, start, steps=self.steps, **settings)

    def results(self, result: dict[str, Any], rate: float | None) -> list[dict[str, Any]]:
        """The curves at one rate in the form of `eval.runs.run` results, one for each instance."""
        curves = result["curves"][self.rates.index(rate)]
        return [
            {"curve": [[step, y] for step, y in zip(result["steps_of_points"], curve)
                       if y is not None],
             "final_training_loss": curve[-1], "diverged": curve[-1] is None,
             "seconds": result["seconds"] / len(result["curves"]) / len(curves)}
            for curve in curves]


def built(name: str, start: list[Any], **settings: Any) -> tuple[list[Any], Any]:
    """Variables with these values, and the optimizer of that name built on them."""
    import keras

    variables = [keras.Variable(value) for value in start]
    optimizer = optimizers.build(name, **{"learning_rate": None, "schedule": "constant", "steps": 0,
                                          **settings})
    optimizer.build(variables)
    return variables, optimizer


def training(problem: Any, variables: list[Any], optimizer: Any, every: int, points: int) -> Any:
    """A function of a run's key, instance, start and optimizer state that gives its curve."""
    import jax

    advance, evaluate = parts(problem, variables, optimizer, every)

    def train(key: Any, instance: Any, start: Any, state: Any) -> Any:
        first = problem.objective(start, instance)

        def point(carry: Any, number: Any) -> tuple[Any, Any]:
            carry = advance(key, instance, carry, number)
            return carry, evaluate(instance, carry) / first

        return jax.lax.scan(point, (list(start), state), jax.numpy.arange(points))[1]

    return train


def parts(problem: Any, variables: list[Any], optimizer: Any, every: int) -> tuple[Any, Any]:
    """What a run is made of, to be compiled.

    Args:
        problem: what is trained.
        variables, optimizer: as `built` gives them.
        every: steps of a part.

    Returns:
        `advance(key, instance, (values, state), number)`, the values and state after that part's
        steps, and `evaluate(instance, (values, state))`, the objective of what would be kept.
    """
    import jax

    from eval.runs.jax_session import final_values

    model = SimpleNamespace(trainable_variables=variables)

    def advance(key: Any, instance: Any, carry: Any, number: Any) -> Any:
        def step(carry: Any, batch: Any) -> tuple[Any, None]:
            values, state = carry
            at = tuple(values), instance, batch
            more = optimizers.told(optimizer, problem.minibatch_objective(*at))
            return optimizer.stateless_apply(
                state, list(problem.gradient(*at)), values, **more), None

        batches = problem.batches(
            jax.random.fold_in(jax.random.wrap_key_data(key), 2), number * every, every, instance)
        return jax.lax.scan(step, carry, batches)[0]

    def evaluate(instance: Any, carry: Any) -> Any:
        return problem.objective(tuple(final_values(model, optimizer, *carry)), instance)

    return advance, evaluate
