"""Losses of the hand-made rule for other shrinkages and decays: pages 36 and, at both ends of the
average, 35.

`KERAS_BACKEND=jax python -m lab.programs.scan_of_the_rule LATE EARLY AVERAGE_LOGIT SCALE_LOGIT`
takes some minutes on a core, most of them to compile; `LATE` and `EARLY` above 0.
"""

import sys

import jax
import numpy as np

import train.validation
from hrnn_opt import Alignment, Averaging, Direction, Rescaling, Rotation
from lab.programs import minisuite
from train.config import TrainConfig


def main(late: float, early: float, average_logit: float, scale_logit: float) -> None:
    """Print the scores on the validation networks and on the small tasks."""
    rule = Averaging(Rotation(Alignment(Rescaling(Direction()))))
    meta = {name: jax.numpy.array(v.value) for name, v in rule.meta_parameters.items()}
    meta |= {
        "log_shrinkage": np.float32(np.log(late)), "log_early_shrinkage": np.float32(np.log(early)),
        "average_logit": np.float32(average_logit), "scale_logit": np.float32(scale_logit)}
    config = TrainConfig(learning_rate=(8e-3, 8e-3))
    validation = train.validation.networks
    for name, tasks in (("validation", validation), ("small tasks", minisuite.tasks)):
        train.validation.networks = tasks
        print(name, train.validation.Validator(config, rule)(meta))


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
