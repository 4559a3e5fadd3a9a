"""Weights beside the rule that they started from, on tasks of no suite: page 37.

`KERAS_BACKEND=jax python -m lab.programs.compare WEIGHTS`: some minutes on a core.
"""

import sys

import jax

import train.validation
from hrnn_opt import Pretrained
from hrnn_opt.files.resolve import resolve
from lab.programs import minisuite
from train.config import TrainConfig


def main(path: str) -> None:
    """Print the scores of both on the validation networks and on the small tasks."""
    config = TrainConfig(learning_rate=(8e-3, 8e-3))
    validation = train.validation.networks
    for name, tasks in (("validation", validation), ("small tasks", minisuite.tasks)):
        train.validation.networks = tasks
        validator = train.validation.Validator(config, resolve("default").network())
        for of, weights in (("start", resolve("default")), (path, Pretrained.load(path))):
            meta = {name: jax.numpy.array(array) for name, array in weights.arrays.items()}
            print(name, of, validator(meta), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
