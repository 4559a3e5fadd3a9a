"""What the numbers of step control are worth by themselves: page 42.

`KERAS_BACKEND=jax python -m lab.programs.scan_of_control STEPS TASK,TASK,...`: losses of `default`
on tasks of `small_real_valid` after so many steps with one number changed, as log ratios to those
without; three runs a task, the same for all.
"""

import math
import sys

from hrnn_opt.files.resolve import resolve
from lab.programs import scan

# Factor of the learning rate, and numbers of the rule `alignment`.
VARIANTS = {
    "as it is": (1.0, {}), "rate / 2": (0.5, {}), "rate * 2": (2.0, {}), "rate * 4": (4.0, {}),
    "no decay": (1.0, {"decay": 0.0}), "gain 4": (1.0, {"gain": 4.0}),
    "no control": (1.0, {"gain": 0.0, "decay": 0.0}), "target 0": (1.0, {"target": 0.0}),
    "target -0.05": (1.0, {"target": -0.05}),
    "delay 10": (1.0, {"log_delay": math.log(10.0)}),
    "delay 200": (1.0, {"log_delay": math.log(200.0)}),
    "growth for 3000": (1.0, {"log_growth_steps": math.log(3000.0)}),
}
OF_COSINE = {"cosine": (1.0, {}), "cosine, rate * 2": (2.0, {})}


def main(steps: int, numbers: list[int]) -> None:
    """Print the table."""
    weights = resolve("default")

    def losses(variants, schedule):
        return scan.losses(
            weights.network(), weights.arrays, "small_real_valid", steps, numbers,
            {name: (factor, {f"alignment_{key}": value for key, value in changed.items()})
             for name, (factor, changed) in variants.items()}, learning_rate_schedule=schedule)

    pairs = zip(losses(VARIANTS, "constant"), losses(OF_COSINE, "cosine"))
    scan.show([{**constant, **cosine} for constant, cosine in pairs], "as it is")


if __name__ == "__main__":
    main(int(sys.argv[1]), [int(number) for number in sys.argv[2].split(",")])
