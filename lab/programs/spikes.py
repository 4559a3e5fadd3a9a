"""What happens in runs that learn by heart: page 49.

`KERAS_BACKEND=jax python -m lab.programs.spikes FILE SUITE TASK STEPS`: by FILE, or by the rule's
numbers in its place (`rule`), six runs side by side: every so many steps log10 of the loss relative
to the start, and the log of the factor of all steps.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from hrnn_opt import Pretrained
from lab.programs import scan
from lab.programs.parts import of_rule

RUNS, LINES = 6, 20


def main(path: str, suite: str, number: str, steps: str, numbers: str = "") -> None:
    """A line for each part of the runs."""
    weights, every = Pretrained.load(path), int(steps) // LINES
    family = scan.family(weights.network(), suite, int(number), int(steps), every, models=RUNS)
    meta = {**weights.arrays, **(of_rule((), weights.arrays) if numbers == "rule" else {})}
    meta = {name: jnp.asarray(value, jnp.float32) for name, value in meta.items()}
    unroll = jax.jit(lambda runs: family.unroll(meta, runs, every)[1])
    objective, runs = jax.jit(family.objective), jax.jit(family.draw)(jax.random.key(11))
    np.set_printoptions(linewidth=100, precision=1, suppress=True)
    for line in range(LINES):
        runs = unroll(runs)
        loss = objective(runs.instance, runs.place) / runs.first_objective
        print(f"{every * (line + 1):6d} {np.log10(np.asarray(loss) + 1e-9)}  "
              f"{np.asarray(runs.state['log_step_size'])}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
