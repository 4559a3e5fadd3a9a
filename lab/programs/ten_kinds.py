"""A suite of one task of each kind of network in `small_real`, without its rescaling, small enough
that some thousand meta-steps of four families take hours: `python -m train --modules
lab.programs.ten_kinds --suite ten_kinds`. All have noise that keeps them from being learned by
heart."""

from problems.small_real import small_real
from problems.suites import add_suite

# Perceptrons with ReLU, sigmoid, tanh and SiLU units, one that is normalised, regression, a
# convnet, a GRU, an attention language model and an autoencoder.
_NUMBERS = (1, 3, 5, 7, 9, 11, 13, 25, 39, 49)


def _tasks():
    tasks = small_real()
    return [tasks[number].problem for number in _NUMBERS]


add_suite("ten_kinds", _tasks)
