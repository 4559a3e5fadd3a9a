"""Starts, noise, sparsity and minibatches have the distributions that they should have."""

import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import problems
from problems.minibatch import minibatch_indices
from tests.problems.helpers import at, setup

DRAWS = 2000


def starts(problem):
    keys = jax.random.split(jax.random.key(1), DRAWS)

    @jax.jit
    def draw(key, keys):
        instance = problem.sample_instance(key)
        return jax.vmap(lambda key: problem.initial_parameters(key, instance))(keys)

    drawn = draw(jax.random.key(0), keys)
    return [np.asarray(tensor) for tensor in drawn]


def assert_normal(values, scale=1.0):
    assert stats.kstest(np.ravel(values) / scale, "norm").pvalue > 1e-3


@pytest.mark.parametrize(
    ("problem", "low", "high"),
    [
        (problems.Rosenbrock(), (-5, -5), (10, 10)),
        (problems.Ackley(), (-32.768, -32.768), (32.768, 32.768)),
        (problems.Beale(), (-4.5, -4.5), (4.5, 4.5)),
        (problems.Booth(), (-10, -10), (10, 10)),
        (problems.Branin(), (-5, 0), (10, 15)),
        (problems.Matyas(), (-10, -10), (10, 10)),
        (problems.Michalewicz(), (0, 0), (np.pi, np.pi)),
        (problems.StyblinskiTang(), (-5, -5), (5, 5)),
    ],
)
def test_uniform_starts(problem, low, high):
    (points,) = starts(problem)
    for i in range(2):
        law = stats.uniform(low[i], high[i] - low[i])
        assert stats.kstest(points[:, i], law.cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    "problem",
    [
        problems.Quadratic(3),
        problems.Norm(3, p=2.0),
        problems.Bowl(2.0),
        problems.LogSumExp(),
        problems.Saddle(),
        problems.DependencyChain(2),
        problems.MinMaxWell(3),
        problems.OutwardSnake(3, samples=4),
        problems.ProjectionQuadratic(3, samples=4),
        problems.SumOfQuadratics(3, samples=4),
    ],
)
def test_normal_starts(problem):
    (points,) = starts(problem)
    assert_normal(points)


def test_network_starts_have_the_standard_deviation_of_their_first_dimension():
    for tensor in starts(problems.FullyConnected(9, 2, (4, 5), samples=10)):
        assert_normal(tensor, 1.2 / np.sqrt(tensor.shape[1]))
    for tensor in starts(problems.ConvNet((8, 8, 1), 3, ((3, 3, 2),), samples=10)):
        assert_normal(tensor, 0.01)


def test_usual_initializers():
    problem = problems.FullyConnected(8, 2, (6,), init="he", samples=10)
    weight, bias, *_ = starts(problem)
    assert_normal(weight, np.sqrt(2 / 8))
    assert not bias.any()
    problem = problems.ConvNet((4, 4, 4), 3, ((3, 3, 5),), init="glorot", samples=10)
    assert_normal(starts(problem)[0], np.sqrt(2 / (9 * 4 + 9 * 5)))


def test_matmul_columns_have_norm_one():
    for factor in starts(problems.MatMulAlgorithm(2, 6)):
        np.testing.assert_allclose(np.linalg.norm(factor, axis=1), 1, rtol=1e-5)
        assert abs(factor.mean()) < 0.02


def test_rescale_moves_start_and_gradient():
    inner, outer = problems.Quadratic(5), problems.Rescale(problems.Quadratic(5), 50.0)
    instance, (start,), batches = setup(outer)
    unscaled = (start / 50,)
    assert np.std(starts(outer)[0]) == pytest.approx(50, rel=0.03)
    inside = instance["problem"]
    value = inner.objective(unscaled, inside)
    assert outer.objective((start,), instance) == pytest.approx(float(value), rel=1e-5)
    expected = jax.grad(inner.objective)(unscaled, inside)[0] / 50
    np.testing.assert_allclose(
        outer.gradient((start,), instance, at(batches, 0))[0], expected, rtol=1e-4
    )


def test_random_rescale_draws_common_and_single_factors():
    problem = problems.RandomRescale(
        problems.FullyConnected(4, 2, (3,), samples=10), common_decades=2.0, tensor_decades=0.5
    )
    keys = jax.random.split(jax.random.key(0), DRAWS)
    drawn = jax.jit(jax.vmap(problem.sample_instance))(keys)
    scales = np.log10(drawn["tensor_scales"])
    assert np.abs(scales).max() <= 2.5
    apart = scales[:, 0] - scales[:, 1]
    assert np.abs(apart).max() <= 1.0
    assert apart.std() == pytest.approx(np.sqrt(2 / 12), rel=0.1)
    assert scales.mean(axis=1).std() == pytest.approx(4 / np.sqrt(12), rel=0.1)


@pytest.mark.parametrize("noise_stdev", [0.0, 0.5, 3.0])
def test_noise_on_the_gradient_and_nowhere_else(noise_stdev):
    problem = problems.Quadratic(20, noise_stdev=noise_stdev)
    instance, start, batches = setup(problem, num_steps=300)
    clean = jax.grad(problem.objective)(start, instance)[0]
    seen = jax.vmap(lambda batch: problem.gradient(start, instance, batch)[0])(batches)
    noise = np.asarray(seen - clean)
    if noise_stdev == 0:
        np.testing.assert_allclose(noise, 0, atol=1e-4)
    else:
        assert_normal(noise, noise_stdev)
        steps = noise.reshape(300, -1)
        assert abs(np.mean(steps[1:] * steps[:-1])) < 0.1 * noise_stdev**2
    quiet = problems.Quadratic(20)
    assert problem.objective(start, instance) == quiet.objective(start, instance)


def test_noise_of_a_sum_is_its_parts():
    problem = problems.SumOf([problems.Quadratic(9), problems.Quadratic(9, noise_stdev=0.5)])
    instance, start, batches = setup(problem, num_steps=300)
    clean = jax.grad(problem.objective)(start, instance)
    seen = jax.vmap(lambda batch: problem.gradient(start, instance, batch))(batches)
    np.testing.assert_allclose(seen[0] - clean[0], 0, atol=1e-4)
    assert_normal(seen[1] - clean[1], 0.5)


@pytest.mark.parametrize("zero_probability", [0.99, 0.5, 0.0])
def test_sparse_gradients(zero_probability):
    problem = problems.SparseGradients(problems.Quadratic(50), zero_probability)
    instance, start, batches = setup(problem, num_steps=400)
    clean = jax.grad(problem.objective)(start, instance)[0]
    seen = jax.vmap(lambda batch: problem.gradient(start, instance, batch)[0])(batches)
    kept = np.asarray(seen != 0)
    assert kept.mean() == pytest.approx(1 - zero_probability, abs=0.005)
    np.testing.assert_allclose(
        seen, np.where(kept, np.broadcast_to(clean, seen.shape), 0), rtol=1e-3, atol=1e-4
    )


def test_log_objective_chains_the_gradient():
    problem = problems.LogObjective(problems.Quadratic(6))
    instance, start, batches = setup(problem)
    expected = jax.grad(problem.objective)(start, instance)[0]
    seen = problem.gradient(start, instance, at(batches, 0))[0]
    np.testing.assert_allclose(seen, expected, rtol=1e-4)
    zero = problems.LogObjective(problems.Matyas())
    instance = zero.sample_instance(jax.random.key(0))
    assert zero.objective((jnp.zeros(2),), instance) == 0


@pytest.mark.parametrize(("samples", "batch_size"), [(12, 3), (10, 4), (7, 7), (5, 1)])
def test_every_sample_once_an_epoch_in_a_new_order(samples, batch_size):
    epochs = 4
    steps = -(-epochs * samples // batch_size)
    indices = minibatch_indices(jax.random.key(3), 0, steps, samples, batch_size)
    assert indices.shape == (steps, batch_size)
    orders = np.asarray(indices).ravel()[: epochs * samples].reshape(epochs, samples)
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(samples), (epochs, 1)))
    assert len({tuple(order) for order in orders}) == epochs


def test_orders_are_uniform():
    orders = jax.vmap(lambda key: minibatch_indices(key, 0, 2, 6, 3).ravel())(
        jax.random.split(jax.random.key(0), DRAWS)
    )
    for place in np.asarray(orders).T:
        assert stats.chisquare(np.bincount(place, minlength=6)).pvalue > 1e-4


@pytest.mark.parametrize("cuts", [(1, 3, 13), (5, 5, 7), (17,)])
def test_a_run_may_be_cut_anywhere(cuts):
    problem = problems.SparseGradients(
        problems.SoftmaxRegression(3, samples=10, batch_size=4, noise_stdev=1.0)
    )
    instance = jax.jit(problem.sample_instance)(jax.random.key(0))
    key = jax.random.PRNGKey(1)
    batches = jax.jit(problem.batches, static_argnums=2)
    whole = batches(key, jnp.int32(0), sum(cuts), instance)
    pieces, start = [], 0
    for length in cuts:
        pieces.append(batches(key, jnp.int32(start), length, instance))
        start += length
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *pieces)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(joined), strict=True):
        np.testing.assert_array_equal(a, b)


def test_long_runs_do_not_overflow():
    """Step 10 million of batches of 512: the position in the data is beyond 32 bits."""
    samples, batch_size, step = 1000, 512, 10_000_000
    ours = minibatch_indices(jax.random.key(0), jnp.int32(step), 2, samples, batch_size)
    epoch, offset = divmod(step * batch_size, samples)
    order = jax.random.permutation(jax.random.fold_in(jax.random.key(0), epoch), samples)
    expected = np.asarray(order)[offset : offset + 100]
    np.testing.assert_array_equal(np.asarray(ours).ravel()[: len(expected)], expected)


def test_minibatch_gradients_average_to_the_full_one():
    problem = problems.FullyConnected(5, 3, (4,), samples=40, batch_size=8)
    instance, start, batches = setup(problem, num_steps=5)
    seen = jax.jit(jax.vmap(lambda batch: problem.gradient(start, instance, batch)))(batches)
    full = jax.jit(jax.grad(problem.objective))(start, instance)
    for a, b in zip(seen, full, strict=True):
        np.testing.assert_allclose(a.mean(axis=0), b, atol=1e-5)
        assert np.std(a, axis=0).max() > 1e-3


VMAPPED = [
    problems.Norm(4, p=1.5, noise_stdev=0.2),
    problems.SumOf([problems.Bowl(2.0), problems.Branin(noise_stdev=1.0)]),
    problems.SparseGradients(problems.MatMulAlgorithm(2, 7), 0.5),
    problems.RandomRescale(problems.FullyConnected(4, 3, (5,), "gelu", samples=9, batch_size=2)),
    problems.ConvNet((8, 8, 1), 3, ((3, 3, 2),), samples=8, batch_size=2, init="he"),
    problems.RecurrentLanguageModel(4, 3, 5, samples=8, batch_size=3),
    problems.AttentionLanguageModel(4, 3, 5, samples=8, batch_size=3),
    problems.SumOfQuadratics(3, samples=6, batch_size=4),
]


@pytest.mark.parametrize("problem", VMAPPED, ids=lambda problem: repr(problem)[:40])
def test_vmapped_equals_single(problem):
    def run(key, start):
        keys = jax.random.split(key, 3)
        instance = problem.sample_instance(keys[0])
        parameters = problem.initial_parameters(keys[1], instance)
        batches = problem.batches(keys[2], start, 4, instance)
        gradient = problem.gradient(parameters, instance, at(batches, 3))
        return problem.objective(parameters, instance), gradient

    keys, when = jax.random.split(jax.random.key(0), 3), jnp.array([0, 5, 77])
    together = jax.jit(jax.vmap(run))(keys, when)
    single = jax.jit(run)
    for i in range(3):
        alone = single(keys[i], when[i])
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=2e-4, atol=1e-5)
