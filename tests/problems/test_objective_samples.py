"""The objective on a part of a large data set."""

import dataclasses

import jax
import numpy as np
import pytest

pytest.importorskip("jax")

import problems


def _problem(**kwargs):
    return problems.FullyConnected(6, 3, (5,), samples=64, batch_size=None, **kwargs)


def test_only_the_objective_is_on_a_part():
    whole, part = _problem(), _problem(objective_samples=16)
    instance = whole.sample_instance(jax.random.key(0))
    parameters = whole.initial_parameters(jax.random.key(1), instance)
    first = dict(instance, data=instance["data"][:16], labels=instance["labels"][:16])
    np.testing.assert_allclose(
        part.objective(parameters, instance), whole.objective(parameters, first), rtol=1e-6)
    assert abs(part.objective(parameters, instance) - whole.objective(parameters, instance)) > 1e-4
    batch = jax.tree.map(lambda leaf: leaf[0], part.batches(jax.random.key(2), 0, 1, instance))
    for ours, theirs in zip(
        part.gradient(parameters, instance, batch), whole.gradient(parameters, instance, batch)
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("samples", [0, 65, 1.5])
def test_a_part_of_bad_size(samples):
    with pytest.raises(ValueError, match=r"objective_samples must be .* 1 to samples=64"):
        dataclasses.replace(_problem(), objective_samples=samples)
