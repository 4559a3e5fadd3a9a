"""One small task to meta-train on and two others to validate on: page 41.

`python -m train --modules lab.programs.smallest --suite smallest`: 200 meta-steps take a minute or
two of a core, most of it to compile.
"""

import train.validation
from problems import FullyConnected, Problem
from problems.datasets import Teacher
from problems.suites import add_suite


def _perceptron(hidden: int, activation: str, inputs: int) -> Problem:
    return FullyConnected(
        inputs, 10, (hidden,), activation, data=Teacher(), samples=4096, objective_samples=512,
        batch_size=32, init="glorot", l2=0.0)


def networks() -> list[Problem]:
    """What is validated on: wider and of other inputs, and four times as long."""
    return [_perceptron(24, "relu", 24), _perceptron(24, "tanh", 24)]


add_suite("smallest", lambda: [_perceptron(16, "relu", 20)])
train.validation.networks = networks
train.validation.STEPS = 800
