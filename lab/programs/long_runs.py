"""What the numbers of step control are worth in long runs: page 49.

`KERAS_BACKEND=jax python -m lab.programs.long_runs FILE SUITE STEPS TASK,TASK,... [VARIANT,...]`:
log(f / f_0 + 1e-6) by weights with one number changed less that with none, three runs a task, the
same for all: after a tenth, three tenths and all of the steps, and the mean over the last tenth.
"""

import math
import sys

import numpy as np

import lab.programs.ten_kinds
import lab.programs.unscaled  # noqa: F401 the suites of both
from hrnn_opt import Pretrained
from lab.programs import scan

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
    "no control": (1.0, {"gain": 0.0, "decay": 0.0}),
}


def main(path: str, suite: str, steps: str, numbers: str, variants: str = "") -> None:
    """Print a block for each task, and one of means."""
    names = ["as it is", *variants.split(",")] if variants else list(VARIANTS)
    weights, tasks = Pretrained.load(path), [int(number) for number in numbers.split(",")]
    changes = {name: (VARIANTS[name][0], {
        f"alignment_{key}": value for key, value in VARIANTS[name][1].items()}) for name in names}
    ends: dict[str, list[np.ndarray]] = {name: [] for name in names[1:]}
    for number, curves in zip(tasks, scan.curves(
            weights.network(), weights.arrays, suite, int(steps), tasks, changes, every=100)):
        found = {name: points(curve) for name, curve in curves.items()}
        print(f"task {number}: {np.round(found['as it is'], 2).tolist()}", flush=True)
        for name in names[1:]:
            ends[name].append((found[name] - found["as it is"]).mean(1))
            print(f"  {name:16s} {np.round(ends[name][-1], 3)}", flush=True)
    for name, of_tasks in ends.items():
        error = np.std(of_tasks, 0, ddof=1) / math.sqrt(len(tasks)) if len(tasks) > 1 else math.nan
        print(f"{name:16s} {np.round(np.mean(of_tasks, 0), 3)} ({np.round(error, 3)})", flush=True)


def points(curve: np.ndarray) -> np.ndarray:
    """(4, runs) of (points, runs): after a tenth, three tenths and all, and the late mean."""
    late = curve[-len(curve) // 10:].mean(0)
    return np.stack([*(curve[round(part * len(curve)) - 1] for part in (0.1, 0.3, 1.0)), late])


if __name__ == "__main__":
    main(*sys.argv[1:])
