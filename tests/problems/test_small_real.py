"""The suites of small networks on real data: each of their programs, and what they have in common.

One compiled program a task: it draws instances of all the numbers that share the program, looks at
start, gradient and curvature, and goes 300 steps of Adam on the problem that is not rescaled.
"""

import functools
import math

import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import numpy as np
import optax

import problems
from problems.problem import shared_numbers
from tests.problems.helpers import at

INSTANCES, STEPS, RATE = 3, 300, 1e-2
# What noise keeps Adam from in these steps, in parts of the first objective; it would be more with
# fewer steps. Autoencoders have no noise: their bottleneck is in the way.
LEAST = {"Regressor": 3e-3, "Autoencoder": 1e-3, "ConvAutoencoder": 1e-3}


def inner(problem):
    return getattr(problem, "problem", problem)


def groups():
    found = {}
    for name in ("small_real", "small_real_mlp", "small_real_valid"):
        for problem in problems.suite(name):
            found.setdefault(problem.program, {})[inner(problem)] = None
    return [tuple(group) for group in found.values()]


GROUPS = groups()
each_group = pytest.mark.parametrize("group", GROUPS, ids=lambda group: repr(group[0])[:48])


def dot(a, b):
    return sum(jnp.sum(x * y) for x, y in zip(a, b, strict=True))


def examine(problem, key, numbers):
    keys = jax.random.split(key, 4)
    instance = problem.sample_instance(keys[0], numbers)
    start = problem.initial_parameters(keys[1], instance)
    batches = problem.batches(keys[2], 0, STEPS, instance)
    first = at(batches, 0)

    def gradient(parameters):
        return problem.gradient(parameters, instance, first)

    # Along a third of the gradient and two thirds of chance, as long as the gradient's norm.
    slope, bend = jax.jvp(gradient, (start,), (gradient(start),))
    noise = [jax.random.normal(jax.random.fold_in(keys[3], i), t.shape)
             for i, t in enumerate(start)]
    length = jnp.sqrt(dot(slope, slope))
    way = [g / length + 2 * e / jnp.sqrt(dot(noise, noise)) for g, e in zip(slope, noise)]

    def along(size):
        moved = tuple(p + size * w for p, w in zip(start, way))
        return problem.minibatch_objective(moved, instance, first)

    optimizer = optax.adam(RATE)

    def step(carry, batch):
        parameters, state = carry
        updates, state = optimizer.update(problem.gradient(parameters, instance, batch), state)
        return (optax.apply_updates(parameters, updates), state), None

    (after, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), batches)
    return {
        "start": start, "gradient": slope, "curvature": bend,
        "difference": (along(3e-3) - along(-3e-3)) / 6e-3, "directional": dot(slope, way),
        "before": problem.objective(start, instance), "after": problem.objective(after, instance),
        "data": instance["data"],
    }


@functools.cache
def examined(group):
    """Each result as (numbers, instances, ...)."""
    numbers = shared_numbers(group)
    keys = jax.random.split(jax.random.key(0), INSTANCES)
    over_instances = jax.vmap(functools.partial(examine, group[0]), (0, None))
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(over_instances, (None, 0)))(keys, numbers))


@each_group
def test_shapes_and_finite_values(group):
    found = examined(group)
    assert 1000 <= sum(map(math.prod, group[0].shapes)) <= 10_000
    for name in ("start", "gradient", "curvature"):
        assert tuple(t.shape[2:] for t in found[name]) == group[0].shapes
        assert all(np.isfinite(t).all() for t in found[name])
    assert all(np.any(t != 0) for t in found["gradient"])
    for name in ("before", "after"):
        assert np.all((found[name] >= 0) & np.isfinite(found[name]))


@each_group
def test_gradient_is_the_difference_quotient(group):
    found = examined(group)
    np.testing.assert_allclose(found["difference"], found["directional"], rtol=0.03, atol=3e-3)


@each_group
def test_instances_differ(group):
    data = examined(group)["data"]
    assert np.all(data.std(axis=(1, 2, 3)) > 0)
    for a in range(INSTANCES):
        for b in range(a):
            assert np.mean(data[:, a] == data[:, b]) < 0.5


@each_group
def test_adam_lowers_the_objective_and_noise_bounds_it(group):
    found = examined(group)
    ratio = found["after"] / found["before"]
    assert np.all(ratio < 0.9)
    assert ratio.mean() < 0.6
    for problem, ratios in zip(group, ratio, strict=True):
        if problem.data.noise:
            assert np.all(ratios > LEAST.get(type(problem).__name__, 0.1))


def test_few_samples_are_learned_by_heart():
    """Of the tasks with few samples, some are as good as solved in 300 steps: of most programs."""
    solved = [
        np.any(ratios < 0.02)
        for group in GROUPS for problem, ratios in zip(
            group, examined(group)["after"] / examined(group)["before"], strict=True)
        if problem.data.few_decades]
    assert np.mean(solved) > 0.5


@each_group
def test_an_epoch_of_minibatch_gradients_averages_to_the_full_one(group):
    problem = group[0]
    if getattr(problem, "norm", "") == "batch" or problem.objective_samples:
        pytest.skip("the objective is not the mean of the minibatches'")
    steps = problem.samples // problem.batch_size

    def compare(key):
        instance, start, batches = setup_from(problem, key, steps)
        seen = jax.lax.map(lambda batch: problem.gradient(start, instance, batch), batches)
        return seen, jax.grad(problem.objective)(start, instance)

    seen, full = jax.jit(compare)(jax.random.key(1))
    for a, b in zip(seen, full, strict=True):
        np.testing.assert_allclose(a.mean(axis=0), b, rtol=1e-3, atol=1e-5)
        assert np.std(a, axis=0).max() > 0


def setup_from(problem, key, steps):
    keys = jax.random.split(key, 3)
    instance = problem.sample_instance(keys[0])
    start = problem.initial_parameters(keys[1], instance)
    return instance, start, problem.batches(keys[2], 0, steps, instance)


@pytest.mark.parametrize("name", ["small_real", "small_real_mlp"])
def test_all_is_rescaled_and_programs_are_few(name):
    suite = problems.suite(name)
    assert len({p.program for p in suite}) <= 20
    for problem in suite:
        assert isinstance(problem, problems.RandomRescale)
        assert (problem.common_decades, problem.tensor_decades) == (3.0, 0.5)
        assert sum(map(math.prod, problem.shapes)) <= 5000
        assert 8 <= problem.problem.batch_size <= 256
        assert problem.problem.samples <= 1024


def test_kinds_are_equally_often():
    kinds = {
        "FullyConnected": 0, "NormalizedPerceptron": 0, "Regressor": 0, "PatchConvNet": 1,
        "RowReader": 2, "RecurrentLanguageModel": 2, "PatchTransformer": 3,
        "AttentionLanguageModel": 3, "Autoencoder": 4, "ConvAutoencoder": 4}
    suite = problems.suite("small_real")
    counts = np.bincount([kinds[type(p.problem).__name__] for p in suite])
    assert len(set(counts)) == 1
    assert len(counts) == 5
    perceptrons = [p for p in suite if kinds[type(p.problem).__name__] == 0]
    assert set(problems.suite("small_real_mlp")) == set(perceptrons)


def test_rescaling_leaves_the_function_as_it_is():
    problem = problems.suite("small_real_mlp")[0]

    def run(key):
        instance, start, batches = setup_from(problem, key, 1)
        plain = problem.inner(start, instance)
        gradients = (
            problem.gradient(start, instance, at(batches, 0)),
            problem.problem.gradient(plain, instance["problem"], at(batches["problem"], 0)))
        return (
            problem.objective(start, instance),
            problem.problem.objective(plain, instance["problem"]),
            instance["tensor_scales"], [t.std() for t in start[::2]], gradients)

    keys = jax.random.split(jax.random.key(0), 64)
    outer, inside, scales, spreads, (seen, plain) = jax.jit(jax.vmap(run))(keys)
    np.testing.assert_allclose(outer, inside, rtol=1e-5)
    decades = np.log10(scales)
    assert np.abs(decades).max() <= 3.5
    common = decades.mean(axis=1)
    assert common.min() < -2
    assert common.max() > 2
    apart = decades - common[:, None]
    assert 0.2 < apart.std() < 0.3
    # The network itself has the start of `init`, up to `init_decades`.
    assert np.ptp(np.log10(spreads[0] / scales[:, 0])) < 0.6
    for i, (a, b) in enumerate(zip(seen, plain, strict=True)):
        shape = (-1, *(1,) * (b.ndim - 1))
        np.testing.assert_allclose(a * scales[:, i].reshape(shape), b, rtol=1e-4, atol=1e-6)


def test_what_is_held_out_is_in_no_other_suite():
    def parts(name):
        suite = [inner(problem) for problem in problems.suite(name)]
        return {type(p.data) for p in suite}, {type(p) for p in suite}

    data, kinds = parts("small_real_valid")
    assert len(problems.suite("small_real_valid")) >= 8
    for name in problems.suite_names():
        if name in ("small_real_valid", "test"):
            continue
        for problem in problems.suite(name):
            used = getattr(inner(problem), "data", None)
            assert type(used) not in data, name
            # But for perceptrons, which are there as deep as nowhere else.
            if type(inner(problem)) in kinds:
                assert len(inner(problem).hidden) < 6
    assert len(kinds) >= 8


