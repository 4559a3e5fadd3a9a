"""What turning large matrices costs, and what it is worth: page 54.

`KERAS_BACKEND=jax python -m lab.programs.large_axes WIDTH NAME,NAME,... STEPS SEEDS`: a language
model of characters (`transformer` of `eval/runs/networks.py`, of that width) on pieces of "As You
Like It", by Adam (`adam`, at 1e-3) and by `rule` that turns rows and columns of at most so many (a
number), or longer ones in parts too (`cut128`). A line for each run: loss on what is trained on at
steps of the curve, CPU seconds of a step and of the whole run, and bytes of state a parameter.
"""

import functools
import sys

import keras
import numpy as np

from eval.runs import networks, practice, runner
from hrnn_opt import (
    Alignment,
    Averaging,
    Direction,
    LearnedOpt,
    Pretrained,
    Rescaling,
    Rotation,
)

EXAMPLES, BATCH = 1792, 16


def optimizer(name: str) -> keras.optimizers.Optimizer:
    """Adam, or `rule` with that limit, and with cuts."""
    if name == "adam":
        return keras.optimizers.Adam(1e-3)
    rule = Averaging(Rotation(Alignment(Rescaling(Direction())),
                              limit=int(name.removeprefix("cut")), cut=name.startswith("cut")))
    return LearnedOpt(Pretrained.from_network(rule, learning_rate=8e-3), seed=0)


def main(width: str, names: str, steps: str, seeds: str) -> None:
    """All runs, one after the other."""
    data = practice.TASKS["play_transformer"].data().part(EXAMPLES)
    build = functools.partial(networks.transformer, width=int(width))
    for seed in range(int(seeds)):
        for name in names.split(","):
            model = networks.build(build, data.x_train.shape[1:], int(data.y_train.max()) + 1, seed)
            chosen = optimizer(name)
            result = runner.train(
                model, chosen, data, steps=int(steps), batch_size=BATCH, seed=seed)
            numbers, state = (sum(int(np.prod(variable.shape)) for variable in variables)
                              for variables in (model.trainable_variables, chosen.variables))
            curve = ", ".join(f"{loss:.4f} ({step})" for step, loss in result["curve"])
            print(f"{name}, seed {seed}: {curve}, on other text {result['test_accuracy']:.4f}; "
                  f"{1000 * result['step_seconds']:.0f} ms a step, {result['seconds']:.0f} s; "
                  f"{numbers:,} parameters, {4 * state / numbers:.1f} bytes of state each",
                  flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
