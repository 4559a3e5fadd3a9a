"""Suites of ten kinds of networks in `small_real`, without its rescaling, small enough that some
thousand meta-steps of four families take hours: `python -m train --modules lab.programs.ten_kinds
--suite ten_kinds`. All tasks of `ten_kinds` have noise that keeps them from being learned by heart;
`ten_kinds_twice` has each once more, with few samples."""

from problems.small_real import small_real
from problems.suites import add_suite

# Perceptrons with ReLU, sigmoid, tanh and SiLU units, one that is normalised, regression, a
# convnet, a GRU, an attention language model and an autoencoder.
_NUMBERS = (1, 3, 5, 7, 9, 11, 13, 25, 39, 49)


def _tasks(numbers):
    tasks = small_real()
    return [tasks[number].problem for number in numbers]


add_suite("ten_kinds", lambda: _tasks(_NUMBERS))
# Even numbers are those with few samples.
add_suite("ten_kinds_twice", lambda: _tasks(sorted([*_NUMBERS, *(n - 1 for n in _NUMBERS)])))
# With the patch transformer, which wants gentler control.
add_suite("eleven_kinds_twice", lambda: _tasks(
    sorted([*_NUMBERS, *(n - 1 for n in _NUMBERS), 36, 37])))
