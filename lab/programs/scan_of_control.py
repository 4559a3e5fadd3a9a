"""What the numbers of step control are worth by themselves: page 42.

`KERAS_BACKEND=jax python -m lab.programs.scan_of_control STEPS TASK,TASK,...`: losses of `default`
on tasks of `small_real_valid` after so many steps with one number changed, as log ratios to those
without; three runs a task, the same for all. Some 30 s to compile a task, then seconds a variant.
"""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np

import problems
from hrnn_opt.files.resolve import resolve
from train.config import TrainConfig
from train.tasks import Family

EVERY = 200
# Name, factor of the learning rate, schedule, numbers of the rule `alignment`.
VARIANTS = (
    ("as it is", 1.0, "constant", {}), ("rate / 2", 0.5, "constant", {}),
    ("rate * 2", 2.0, "constant", {}), ("rate * 4", 4.0, "constant", {}),
    ("cosine", 1.0, "cosine", {}), ("cosine, rate * 2", 2.0, "cosine", {}),
    ("no decay", 1.0, "constant", {"decay": 0.0}), ("gain 4", 1.0, "constant", {"gain": 4.0}),
    ("no control", 1.0, "constant", {"gain": 0.0, "decay": 0.0}),
    ("target 0", 1.0, "constant", {"target": 0.0}),
    ("target -0.05", 1.0, "constant", {"target": -0.05}),
    ("delay 10", 1.0, "constant", {"log_delay": math.log(10.0)}),
    ("delay 200", 1.0, "constant", {"log_delay": math.log(200.0)}),
    ("growth for 3000", 1.0, "constant", {"log_growth_steps": math.log(3000.0)}),
)


def main(steps: int, numbers: list[int]) -> None:
    """Print a row for each variant: the mean over tasks, its standard error, and each task."""
    weights = resolve("default")
    network = weights.network()
    meta = {name: jnp.array(array) for name, array in weights.arrays.items()}
    tasks = list(problems.suite("small_real_valid"))
    ends: dict[str, list[np.ndarray]] = {name: [] for name, *_ in VARIANTS}
    for number in numbers:
        programs = {}
        for name, factor, schedule, changed in VARIANTS:
            if schedule not in programs:
                config = TrainConfig(
                    models=3, learning_rate=(8e-3, 8e-3), learning_rate_schedule=schedule,
                    run_range=(steps, steps), unroll=EVERY, objective_every=EVERY,
                    horizon="unknown")
                family = Family([tasks[number]], network, config)

                def run(meta, runs, family=family):
                    runs, _ = jax.lax.scan(
                        lambda runs, _: (family.unroll(meta, runs, EVERY)[1], None), runs, None,
                        steps // EVERY)
                    return family.objective(runs.instance, runs.place) / runs.first_objective

                programs[schedule] = jax.jit(family.draw)(jax.random.key(11)), jax.jit(run)
            start, program = programs[schedule]
            losses = np.asarray(program(
                meta | {f"alignment_{key}": jnp.float32(x) for key, x in changed.items()},
                start._replace(learning_rate=factor * start.learning_rate)))
            ends[name].append(np.log(np.where(np.isfinite(losses), losses, 1.0) + 1e-6))
    for name, of_tasks in ends.items():
        ratios = np.array(of_tasks) - np.array(ends["as it is"])
        means = ratios.mean(1)
        error = means.std(ddof=1) / math.sqrt(len(means)) if len(means) > 1 else math.nan
        print(f"{name:18s} {means.mean():+.3f} ({error:.3f})  {np.round(means, 3)}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), [int(number) for number in sys.argv[2].split(",")])
