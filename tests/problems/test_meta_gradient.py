"""The meta-gradient through 20 steps of SGD is finite for the specs of every suite.

One program of each kind by default; all of them, ten minutes of compiling, with the environment
variable PROBLEMS_EVERY_PROGRAM=1.
"""

import dataclasses
import os
import re

import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import numpy as np

import problems
from tests.problems.helpers import write_mnist

STEPS = 20


def norm(tensors):
    return jnp.sqrt(sum(jnp.sum(tensor**2) for tensor in tensors))


def prepare(problem):
    def run(key, numbers):
        instance_key, start_key, run_key = jax.random.split(key, 3)
        instance = problem.sample_instance(instance_key, numbers)
        start = problem.initial_parameters(start_key, instance)
        return instance, start, problem.batches(run_key, 0, STEPS, instance)

    return run


def differentiate(problem):
    """One step, its pullback at `cotangent`, and the gradient of the log objective.

    All that backpropagation through the run needs in one small program: a scan and its
    derivative would take four times as long to compile.
    """

    def run(instance, parameters, batch, rate, log_factor, cotangent):
        def step(parameters, log_factor):
            gradient = problem.gradient(parameters, instance, batch)
            scale = rate * jnp.exp(log_factor)
            return tuple(p - scale * g for p, g in zip(parameters, gradient, strict=True))

        def log_objective(parameters):
            return jnp.log(problem.objective(parameters, instance) + 1e-6)

        after, pull = jax.vjp(step, parameters, log_factor)
        slope = jax.grad(problem.minibatch_objective)(parameters, instance, batch)
        natural = 0.01 * norm(parameters) / (norm(slope) + 1e-12)
        return after, pull(cotangent), jax.value_and_grad(log_objective)(parameters), natural

    return run


def programs():
    groups = {}
    for name in ("all", "test", "broad"):
        for problem in problems.suite(name):
            groups.setdefault(problem.program, {})[problem] = None
    found = [list(group) for group in groups.values()]
    if os.environ.get("PROBLEMS_EVERY_PROGRAM"):
        return found
    return list({kind(group[0]): group for group in reversed(found)}.values())


def kind(problem):
    """The families and activations in a spec: what its derivatives are made of, sizes aside."""
    names = re.findall(r"([A-Z]\w+)\(|'(relu|gelu|tanh)'", repr(problem))
    data_sets = {"Clusters", "Digits", "MarkovText", "MNIST", "RandomMLP", "Teacher"}
    return frozenset(name for pair in names for name in pair) - data_sets


@pytest.fixture(scope="module")
def mnist_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mnist")
    write_mnist(folder, train=64)
    return str(folder)


@pytest.mark.parametrize("group", programs(), ids=lambda group: repr(group[0])[:60])
def test_meta_gradient_is_finite(group, mnist_folder):
    first = group[0]
    if isinstance(getattr(first, "data", None), problems.MNIST):
        first = dataclasses.replace(
            first, samples=64, batch_size=8, data=problems.MNIST(data_dir=mnist_folder)
        )
    keys = jax.random.split(jax.random.key(0), len(group))
    numbers = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[p.numbers for p in group])
    instance, parameters, batches = jax.jit(jax.vmap(prepare(first)))(keys, numbers)
    count = len(group)

    def batch(i):
        return jax.tree.map(lambda leaf: leaf[:, i], batches)

    zeros = jax.tree.map(jnp.zeros_like, parameters)
    log_factor, rate = jnp.zeros(count), jnp.zeros(count)
    step = jax.jit(jax.vmap(differentiate(first)))
    rate = step(instance, parameters, batch(0), rate, log_factor, zeros)[3]

    states = [parameters]
    for i in range(STEPS):
        states.append(step(instance, states[-1], batch(i), rate, log_factor, zeros)[0])
    value, cotangent = step(instance, states[-1], batch(0), rate, log_factor, zeros)[2]
    assert np.all(np.isfinite(value))
    slope = jnp.zeros(count)
    for i in reversed(range(STEPS)):
        _, pulled, _, _ = step(instance, states[i], batch(i), rate, log_factor, cotangent)
        cotangent, slope = pulled[0], slope + pulled[1]
    assert np.all(np.isfinite(slope)), [p for p, s in zip(group, slope) if not np.isfinite(s)]
    for tensor in cotangent:
        assert np.all(np.isfinite(tensor))
    assert any(np.any(tensor != 0) for tensor in cotangent)
