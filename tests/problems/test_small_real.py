"""The suites of small networks on real data: each of their programs, and what they have in common.

Compiling is most of the time, so that each program has one gradient and one objective compiled,
which Adam takes 300 steps with; draws of data that have the same shape are compiled once.
"""

import dataclasses
import functools
import math

import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import numpy as np

import problems
from problems.problem import shared_numbers

INSTANCES, STEPS, RATE = 2, 300, 1e-2
# What noise keeps Adam from in these steps, in parts of the first objective. Autoencoders have no
# noise: their bottleneck is in the way.
LEAST = {"Regressor": 3e-3, "Autoencoder": 1e-3, "ConvAutoencoder": 1e-3}


def inner(problem):
    return getattr(problem, "problem", problem)


def smaller(problem):
    """It without the rescaling, and with an objective on all of fewer samples."""
    samples = min(inner(problem).samples, 1024)
    return dataclasses.replace(inner(problem), samples=samples, objective_samples=None)


def groups():
    """The problems that share a program, those of all suites."""
    found = {}
    for name in ("small_real", "small_real_mlp", "small_real_valid"):
        for problem in problems.suite(name):
            found.setdefault(problem.program, {})[smaller(problem)] = None
    return [tuple(group) for group in found.values()]


GROUPS = groups()
each_group = pytest.mark.parametrize("group", GROUPS, ids=lambda group: repr(group[0])[:48])


@functools.cache
def drawer(kind, *sizes):
    """Draws data of a kind, an instance for each of some keys."""
    return jax.jit(jax.vmap(lambda key, numbers: kind().draw(key, numbers, *sizes)))


def drawn(group):
    """INSTANCES of each problem as `sample_instance` makes them, but for the scale of the start,
    which is 1. The instances of one problem have the keys of those of another."""
    numbers = jax.tree.map(lambda leaf: jnp.repeat(leaf, INSTANCES), shared_numbers(group))
    keys = jnp.tile(jax.random.split(jax.random.key(0), INSTANCES), len(group))
    draw = drawer(type(group[0].data), group[0].samples, *group[0].data_sizes)
    data, labels = draw(keys, numbers.pop("data"))
    return {**numbers, "data": data, "labels": labels, "init_scale": jnp.ones(len(data))}


def total(tensors):
    """Sums over all but the first axis."""
    return sum(np.sum(t, axis=tuple(range(1, t.ndim)), dtype=np.float64) for t in tensors)


def scaled(factors, tensors):
    return [np.expand_dims(factors, tuple(range(1, t.ndim))) * t for t in tensors]


def moved(parameters, size, way):
    return tuple(np.float32(p + size * w) for p, w in zip(parameters, way, strict=True))


def adam(gradient, parameters, instance, orders):
    """Adam's parameters after the batches (steps, batch)."""
    first = second = tuple(0.0 for _ in parameters)
    for t, index in enumerate(orders, 1):
        g = gradient(parameters, instance, index)
        first = [0.9 * m + 0.1 * np.asarray(x) for m, x in zip(first, g)]
        second = [0.999 * v + 0.001 * np.asarray(x) ** 2 for v, x in zip(second, g)]
        way = [m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
               for m, v in zip(first, second)]
        parameters = moved(parameters, -RATE, way)
    return parameters


@functools.cache
def examined(group):
    """Each result as (problems, INSTANCES, ...)."""
    found = flat_examined(group)
    return jax.tree.map(
        lambda leaf: np.reshape(leaf, (len(group), INSTANCES, *np.shape(leaf)[1:])), found)


def flat_examined(group):
    problem, instance = group[0], drawn(group)
    batch = problem.batch_size
    count, samples = instance["data"].shape[:2]
    keys = jax.random.split(jax.random.key(1), count)
    start = jax.jit(jax.vmap(problem.initial_parameters))(keys, instance)
    start = tuple(np.asarray(tensor) for tensor in start)
    objective = jax.jit(jax.vmap(problem.objective))
    gradient = jax.jit(jax.vmap(
        lambda x, i, index: problem.gradient(x, i, {"index": index}), (0, 0, None)))

    # An epoch of minibatches, whose mean is the objective's gradient.
    epoch = np.arange(samples).reshape(-1, batch)
    each = [[np.asarray(t) for t in gradient(start, instance, index)] for index in epoch]
    full = [np.mean(tensors, axis=0) for tensors in zip(*each, strict=True)]
    # Along the gradient and twice as far by chance.
    generator = np.random.default_rng(0)
    chance = [generator.normal(size=t.shape) for t in full]
    way = [a + b for a, b in zip(
        scaled(total([t**2 for t in full]) ** -0.5, full),
        scaled(2 * total([t**2 for t in chance]) ** -0.5, chance), strict=True)]
    ends = [objective(moved(start, size, way), instance) for size in (3e-3, -3e-3)]
    order = np.random.default_rng(1)
    epochs = -(-STEPS * batch // samples)
    orders = np.concatenate([order.permutation(samples) for _ in range(epochs)])
    after = adam(gradient, start, instance, orders[: STEPS * batch].reshape(STEPS, batch))
    return {
        "start": start, "gradient": full, "data": instance["data"],
        "spread": [np.std(tensors, axis=0) for tensors in zip(*each, strict=True)],
        "difference": (ends[0] - ends[1]) / 6e-3,
        "directional": total([g * w for g, w in zip(full, way, strict=True)]),
        "before": objective(start, instance), "after": objective(after, instance),
    }


@each_group
def test_shapes_and_finite_values(group):
    found = examined(group)
    assert 1000 <= sum(map(math.prod, group[0].shapes)) <= 10_000
    for name in ("start", "gradient"):
        assert tuple(t.shape[2:] for t in found[name]) == group[0].shapes
        assert all(np.isfinite(t).all() for t in found[name])
    assert all(np.any(t != 0) for t in found["gradient"])
    for name in ("before", "after"):
        assert np.all((found[name] >= 0) & np.isfinite(found[name]))


@each_group
def test_minibatch_gradients_average_to_the_difference_quotient_of_the_objective(group):
    found = examined(group)
    assert max(spread.max() for spread in found["spread"]) > 0
    # Where a minibatch is normalised by its own mean and variance, they do so only about.
    tolerance = 0.2 if getattr(group[0], "norm", "") == "batch" else 0.03
    np.testing.assert_allclose(
        found["difference"], found["directional"], rtol=tolerance, atol=tolerance / 10)


@each_group
def test_instances_differ(group):
    data = examined(group)["data"]
    assert np.all(data.std(axis=(2, 3)) > 0)
    assert np.all(np.mean(data[:, 0] == data[:, 1], axis=(1, 2)) < 0.5)


@each_group
def test_adam_lowers_the_objective_and_noise_bounds_it(group):
    found = examined(group)
    ratio = found["after"] / found["before"]
    assert np.all(ratio < 0.9)
    assert ratio.mean() < 0.7
    for problem, ratios in zip(group, ratio, strict=True):
        if problem.data.noise:
            assert np.all(ratios > LEAST.get(type(problem).__name__, 0.03))


def test_few_samples_are_learned_by_heart():
    """By most networks, of those instances that have fewer."""
    solved = []
    for group in GROUPS:
        found = examined(group)
        for problem, ratios in zip(group, found["after"] / found["before"], strict=True):
            if problem.data.few_decades:
                solved.append(ratios.min() < 0.05)
    assert np.mean(solved) > 0.5


@pytest.mark.parametrize("name", ["small_real", "small_real_mlp"])
def test_all_is_rescaled_and_programs_are_few(name):
    suite = problems.suite(name)
    assert len({p.program for p in suite}) <= 20
    for problem in suite:
        assert isinstance(problem, problems.RandomRescale)
        assert (problem.common_decades, problem.tensor_decades) == (3.0, 0.5)
        assert sum(map(math.prod, problem.shapes)) <= 5000
        assert 8 <= problem.problem.batch_size <= 256
        assert (problem.problem.samples, problem.problem.objective_samples) == (4096, 512)


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
    whole = problems.suite("small_real_mlp")[0]
    network = dataclasses.replace(
        whole.problem, samples=32, batch_size=None, objective_samples=None)
    problem = dataclasses.replace(whole, problem=network)

    def run(key):
        instance_key, start_key = jax.random.split(key)
        instance = problem.sample_instance(instance_key)
        start = problem.initial_parameters(start_key, instance)
        plain, batch = problem.inner(start, instance), {"noise": key}
        seen = problem.gradient(start, instance, {"problem": batch})
        below = problem.problem.gradient(plain, instance["problem"], batch)
        return (
            problem.objective(start, instance),
            problem.problem.objective(plain, instance["problem"]),
            instance["tensor_scales"], start[0].std(), seen, below)

    keys = jax.random.split(jax.random.key(0), 64)
    outer, inside, scales, spread, seen, plain = jax.jit(jax.vmap(run))(keys)
    np.testing.assert_allclose(outer, inside, rtol=1e-5)
    decades = np.log10(scales)
    assert np.abs(decades).max() <= 3.5
    common = decades.mean(axis=1)
    assert common.min() < -2
    assert common.max() > 2
    apart = decades - common[:, None]
    assert 0.2 < apart.std() < 0.3
    # The network itself has the start of `init`, up to `init_decades`.
    assert np.ptp(np.log10(spread / scales[:, 0])) < 0.6
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


