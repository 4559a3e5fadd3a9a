"""The objective on a part of a large data set."""

import dataclasses

import jax
import numpy as np
import pytest

pytest.importorskip("jax")

import problems
from tests.problems.helpers import at, setup


def _problem(**kwargs):
    return problems.FullyConnected(6, 3, (5,), samples=64, batch_size=None, **kwargs)


def test_only_the_objective_is_on_a_part():
    whole, part = _problem(), _problem(objective_samples=16)
    instance, parameters, batches = setup(part, num_steps=1)
    first = dict(instance, data=instance["data"][:16], labels=instance["labels"][:16])
    of_whole = jax.jit(whole.objective)
    found = jax.jit(part.objective)(parameters, instance)
    np.testing.assert_allclose(found, of_whole(parameters, first), rtol=1e-6)
    assert abs(found - of_whole(parameters, instance)) > 1e-4
    given = parameters, instance, at(batches, 0)
    for ours, theirs in zip(jax.jit(part.gradient)(*given), jax.jit(whole.gradient)(*given)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("samples", [0, 65, 1.5])
def test_a_part_of_bad_size(samples):
    with pytest.raises(ValueError, match=r"objective_samples must be .* 1 to samples=64"):
        dataclasses.replace(_problem(), objective_samples=samples)
