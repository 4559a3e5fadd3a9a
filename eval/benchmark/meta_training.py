"""Throughput of meta-training, warm: medians of several runs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

# Tasks side by side in each case, as members x models. Odd numbers of models keep features off the
# same lines of the cache.
TASKS = {"quadratic_20": (4, 127), "mlp_8_32_64": (12, 3)}
# By estimator: what its throughput is called, and the truncations of an estimate. Runs of `full`
# are as long as that, those of the others go on.
ESTIMATORS = {"tbptt": ("parameter_steps_per_second", 1), "pes": ("pes", 1), "full": ("full", 8)}


def _problem(case: str) -> Any:
    import problems
    from problems.datasets import RandomMLP

    if case == "quadratic_20":
        return problems.Quadratic(20)
    return problems.FullyConnected(8, 2, (32, 64), data=RandomMLP(), samples=1000, batch_size=16)


def _seconds(function: Callable[[], Any], repeats: int) -> float:
    import jax

    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def throughput(case: str, network: Any, unroll: int, repeats: int, objective_every: int,
               ) -> dict[str, float]:
    """Throughput of one case.

    Args:
        case: of `TASKS`.
        network: a `LearnedOptimizer`.
        unroll: inner steps of a truncation; whole runs, of estimator `full`, have eight times that.
        repeats: of which the median counts.
        objective_every: so-many-th inner step has an objective.

    Returns:
        `parameter_steps_per_second` with the truncated meta-gradient; `pes`, `full` and
        `forward_only` likewise, and `compile_seconds` of the first. `forward_only` moves members
        side by side: what rules do at some steps is done at all, which the others are spared.
    """
    import jax

    from train import estimators
    from train.config import TrainConfig
    from train.devices import Devices
    from train.tasks import Family

    members, models = TASKS[case]
    start = {name: variable.value for name, variable in network.meta_parameters.items()}
    result = {}
    for name, (key, segments) in ESTIMATORS.items():
        config = TrainConfig(
            members=members, models=models, unroll=unroll, objective_every=objective_every,
            estimator=name, run_length="log_uniform", run_range=(100 * unroll, 100 * unroll))
        family = Family([_problem(case)], network, config)
        steps = members * models * unroll * family.layout.parameters
        devices = Devices(config)
        estimator = estimators.make(family, config, devices.members)
        meta = devices.replicate(start)
        state = estimator.init(jax.random.key(0), meta)
        started = time.perf_counter()
        estimator.compile(meta)
        if name == "tbptt":
            result["compile_seconds"] = time.perf_counter() - started

        def truncation(estimator=estimator, meta=meta, segments=segments) -> Any:
            nonlocal state
            estimate, state = estimator.estimate(meta, state, jax.random.key(1), segments)
            return estimate

        jax.block_until_ready(truncation())
        result[key] = segments * steps / _seconds(truncation, repeats)
        if name == "tbptt":
            copies = jax.device_put(estimators.for_members(start, members), devices.members)
            forward = jax.jit(jax.vmap(
                lambda meta, tasks: family.unroll(meta, tasks, unroll)))  # noqa: B023
            jax.block_until_ready(forward(copies, state))
            result["forward_only"] = steps / _seconds(
                lambda: forward(copies, state), repeats)  # noqa: B023
    return result
