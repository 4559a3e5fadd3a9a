"""Log ratios of the losses by files of weights, whatever their networks, to those by the rule:
`KERAS_BACKEND=jax python -m lab.programs.files SUITE STEPS TASK,TASK,... RUNS FILE...`.
"""

import sys

import numpy as np

import lab.programs.minisuite
import lab.programs.ten_kinds  # noqa: F401 its suites
from hrnn_opt import Pretrained
from lab.programs import scan
from lab.programs.parts import of_rule


def main(suite: str, steps: str, numbers: str, runs: str, *files: str) -> None:
    """A row for each file."""
    scan.RUNS = int(runs)
    tasks = [int(number) for number in numbers.split(",")]
    ends: list[dict[str, np.ndarray]] = [{} for _ in tasks]
    for name in files:
        weights = Pretrained.load(name)
        variants = {name: (1.0, {})}
        if not ends[0]:
            variants["the rule"] = (1.0, of_rule((), weights.arrays))
        for of_task, found in zip(ends, scan.losses(
                weights.network(), weights.arrays, suite, int(steps), tasks, variants)):
            of_task.update(found)
            shown = {key: np.round(value, 2).tolist() for key, value in found.items()}
            print(shown, file=sys.stderr, flush=True)
    scan.show(ends, "the rule")


if __name__ == "__main__":
    main(*sys.argv[1:])
