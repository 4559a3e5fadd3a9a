"""Suites of ten kinds of networks in `small_real`, without its rescaling, small enough that some
thousand meta-steps of four families take hours: `python -m train --modules lab.programs.ten_kinds
--suite ten_kinds`. All tasks of `ten_kinds` have noise that keeps them from being learned by heart;
`ten_kinds_twice` has each once more, with few samples."""

import dataclasses

from problems.problem import Problem
from problems.real_data import Pictures
from problems.small_real import small_real
from problems.suites import add_suite, suite

# Perceptrons with ReLU, sigmoid, tanh and SiLU units, one that is normalised, regression, a
# convnet, a GRU, an attention language model and an autoencoder.
_NUMBERS = (1, 3, 5, 7, 9, 11, 13, 25, 39, 49)
# Even numbers are those with few samples.
_TWICE = sorted([*_NUMBERS, *(n - 1 for n in _NUMBERS)])
# With the patch transformer, which wants gentler control.
_ELEVEN = sorted([*_TWICE, 36, 37])


def _tasks(numbers):
    tasks = small_real()
    return [tasks[number].problem for number in numbers]


def _clean(problem):
    """Neither few samples nor noise."""
    return dataclasses.replace(problem, data=dataclasses.replace(
        problem.data, **{name: 0.0 for name in ("few_decades", "noise")
                         if hasattr(problem.data, name)}))


def _deep() -> list[Problem]:
    """Narrow perceptrons of many layers without normalisation, on few samples: large steps lead
    out of what they have learned."""
    shallow, = _tasks([0])
    return [
        dataclasses.replace(
            shallow, features=features, classes=classes, hidden=(16,) * layers,
            activation=activation, batch_size=batch, data=Pictures(few_decades=2.0))
        for features, classes, layers, activation, batch in (
            (36, 6, 6, "relu", 32), (64, 10, 8, "silu", 16))]


add_suite("ten_kinds", lambda: _tasks(_NUMBERS))
add_suite("ten_kinds_twice", lambda: _tasks(_TWICE))
add_suite("eleven_kinds_twice", lambda: _tasks(_ELEVEN))
# And with as many samples as there are, and no noise.
add_suite("eleven_kinds_thrice", lambda: [
    *_tasks(_ELEVEN), *map(_clean, _tasks(_ELEVEN[::2]))])
# And fragile ones.
add_suite("thirteen_kinds", lambda: [*suite("eleven_kinds_thrice"), *_deep()])
