"""What the numbers of step control are worth in long runs: page 49.

`KERAS_BACKEND=jax python -m lab.programs.long_runs FILE SUITE STEPS TASK,TASK,... [VARIANT,...]`:
log(f / f_0 + 1e-6) by weights with one number changed less that with none, three runs a task, the
same for all: after a tenth, three tenths and all of the steps, and the mean over the last tenth.
"""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np

import lab.programs.ten_kinds  # noqa: F401 its suites
import problems
from lab.programs.files import read
from train.config import TrainConfig
from train.tasks import Family

EVERY = 100
RUNS = 3
# A factor of the learning rate, and numbers of the rule `alignment`.
VARIANTS = {
    "as it is": (1.0, {}), "rate / 2": (0.5, {}), "rate * 2": (2.0, {}),
    "target -0.01": (1.0, {"target": -0.01}), "target -0.04": (1.0, {"target": -0.04}),
    "decay 0": (1.0, {"decay": 0.0}), "decay 0.5": (1.0, {"decay": 0.5}),
    "gain 1": (1.0, {"gain": 1.0}), "gain 4": (1.0, {"gain": 4.0}),
    "delay 200": (1.0, {"log_delay": math.log(200.0)}),
    "steps 2000": (1.0, {"log_steps": math.log(2e3)}),
    "steps 20000": (1.0, {"log_steps": math.log(2e4)}),
    "growth for 2000": (1.0, {"log_growth_steps": math.log(2e3)}),
}


def curves(path: str, suite: str, steps: int, number: int, names: list[str]) -> dict:
    """(RUNS, 4) by variant."""
    weights = read(path)
    config = TrainConfig(
        models=RUNS, learning_rate=(8e-3, 8e-3), run_range=(steps, steps), unroll=EVERY,
        objective_every=EVERY)
    family = Family([list(problems.suite(suite))[number]], weights.network(), config)

    def run(meta, runs):
        def truncation(runs, _):
            runs = family.unroll(meta, runs, EVERY)[1]
            return runs, family.objective(runs.instance, runs.place) / runs.first_objective

        return jax.lax.scan(truncation, runs, None, steps // EVERY)[1]

    program = jax.jit(run, compiler_options={"xla_cpu_use_fusion_emitters": False})
    start, found = jax.jit(family.draw)(jax.random.key(11)), {}
    for name in names:
        factor, changed = VARIANTS[name]
        meta = {**weights.arrays, **{f"alignment_{key}": y for key, y in changed.items()}}
        shares = np.asarray(program(
            {key: jnp.asarray(y, jnp.float32) for key, y in meta.items()},
            start._replace(learning_rate=factor * start.learning_rate)))
        logs = np.log(np.where(np.isfinite(shares), shares, 1.0) + 1e-6)
        points = [logs[round(part * len(logs)) - 1] for part in (0.1, 0.3, 1.0)]
        found[name] = np.stack([*points, logs[-len(logs) // 10:].mean(0)], 1)
    return found


def main(path: str, suite: str, steps: str, numbers: str, variants: str = "") -> None:
    """Print a block for each task, and one of means."""
    names = ["as it is", *variants.split(",")] if variants else list(VARIANTS)
    ends: dict[str, list] = {name: [] for name in names}
    for number in map(int, numbers.split(",")):
        found = curves(path, suite, int(steps), number, names)
        print(f"task {number}: {np.round(found['as it is'], 2).tolist()}", flush=True)
        for name in names[1:]:
            difference = (found[name] - found["as it is"]).mean(0)
            ends[name].append(difference)
            print(f"  {name:16s} {np.round(difference, 3)}", flush=True)
    for name in names[1:]:
        of_tasks = np.array(ends[name])
        error = of_tasks.std(0, ddof=1) / math.sqrt(len(of_tasks)) if len(of_tasks) > 1 else 0.0
        print(f"{name:16s} {np.round(of_tasks.mean(0), 3)} ({np.round(error, 3)})", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
