"""The suites of small networks on real data."""

import pytest

pytest.importorskip("jax")

import math

import jax
import numpy as np

import problems
from tests.problems.helpers import at, setup

SUITES = ("small_real", "small_real_mlp")
PROGRAMS = list({p.program: p for name in SUITES for p in problems.suite(name)}.values())


@pytest.mark.parametrize("problem", PROGRAMS, ids=lambda problem: repr(problem)[14:70])
def test_shapes_and_finite_values(problem):
    instance, start, batches = jax.jit(lambda: setup(problem))()
    assert tuple(tensor.shape for tensor in start) == problem.shapes
    assert 1000 <= sum(map(math.prod, problem.shapes)) <= 5000
    value = problem.objective(start, instance)
    gradient = problem.gradient(start, instance, at(batches, 0))
    assert 0 < value < np.inf
    assert all(np.isfinite(tensor).all() for tensor in gradient)
    assert [tensor.shape for tensor in gradient] == list(problem.shapes)
