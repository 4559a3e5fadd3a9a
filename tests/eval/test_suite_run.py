"""Runs of any optimizer on the problems of a suite."""

import os

import numpy as np
import pytest

if os.environ.get("KERAS_BACKEND") != "jax":
    pytest.skip("needs the JAX backend", allow_module_level=True)

import jax

from eval.runs.suite_run import SuiteRun


def by_hand(run, rates):
    """The curve of plain descent on the run's first instance."""
    problem = run.problem
    key = jax.random.split(jax.random.key(run.seed), run.instances)[0]
    instance = problem.sample_instance(key)
    values = problem.initial_parameters(jax.random.fold_in(key, 1), instance)
    first, curve = problem.objective(values, instance), []
    for step, rate in enumerate(rates):
        batch = jax.tree.map(lambda leaf: leaf[0], problem.batches(
            jax.random.fold_in(key, 2), step, 1, instance))
        gradient = problem.gradient(values, instance, batch)
        values = tuple(value - rate * g for value, g in zip(values, gradient))
        curve.append(float(problem.objective(values, instance) / first))
    return curve


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_baseline_takes_its_rate_and_schedule(schedule):
    run = SuiteRun("quadratic", 0, 50, 2, optimizer="sgd_plain", learning_rate=0.01,
                   schedule=schedule)
    result = run.execute(None)
    rates = 0.01 * np.ones(50)
    if schedule == "cosine":
        rates = 0.005 * (1 + np.cos(np.pi * np.arange(50) / 50))
    np.testing.assert_allclose(result["curves"][0], by_hand(run, rates), rtol=1e-3)
    assert result["curves"][0] != result["curves"][1]
    assert 0 < result["step_seconds"] < result["seconds"]
    assert (result["learning_rate"], result["optimizer"]) == (0.01, "sgd_plain")


def test_results_of_weights_from_before_are_found_again():
    run = SuiteRun("quadratic", 0, 50, 2, "rule")
    assert set(run.configuration(None)) == {
        "suite", "number", "steps", "instances", "weights", "seed", "optimizer", "problem",
        "weights_sha256"}
    assert run.title == "quadratic-0-rule-50"
    assert SuiteRun("quadratic", 0, 50, 2, "rule", learning_rate=0.1).configuration(None) != (
        run.configuration(None))
