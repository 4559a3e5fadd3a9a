"""Objectives are at least 0, minimal where they should be, and smooth where that is hard."""

import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import numpy as np

import problems

MINIMA = [
    (problems.Rosenbrock(), (1.0, 1.0), 0.0),
    (problems.Ackley(), (0.0, 0.0), 0.0),
    (problems.Beale(), (3.0, 0.5), 0.0),
    (problems.Booth(), (1.0, 3.0), 0.0),
    (problems.Branin(), (np.pi, 2.275), 0.397887),
    (problems.Matyas(), (0.0, 0.0), 0.0),
    (problems.StyblinskiTang(), (-2.903534, -2.903534), 80 - 78.33233),
    (problems.LogSumExp(), (-0.34657, 0.0), 1.26955),
]


@pytest.mark.parametrize(("problem", "point", "value"), MINIMA)
def test_known_minima(problem, point, value):
    instance = problem.sample_instance(jax.random.key(0))
    at_minimum = float(problem.objective((jnp.array(point),), instance))
    assert at_minimum >= 0
    assert at_minimum == pytest.approx(value, abs=2e-3)
    around = jnp.array(point) + 0.05 * jax.random.normal(jax.random.key(1), (200, 2))
    values = jax.vmap(lambda x: problem.objective((x,), instance))(around)
    assert np.all(values >= at_minimum - 1e-5)


SINGULAR = [
    (problems.Norm(3, p=1.5), None),
    (problems.Ackley(), (jnp.zeros(2),)),
    (problems.MinMaxWell(3), (jnp.array([0.0, 1.0, 2.0]),)),
    (problems.MinMaxWell(3), (jnp.ones(3),)),
    (problems.DependencyChain(3), (jnp.zeros(4),)),
    (problems.OutwardSnake(3, samples=4), (jnp.zeros(3),)),
    (problems.SumOfQuadratics(3, samples=4), (jnp.full((1, 3), 1e-4),)),
    (problems.MatMulAlgorithm(2, 5), (jnp.ones((4, 5)), jnp.ones((4, 5)))),
    (problems.LogObjective(problems.Matyas()), (jnp.zeros(2),)),
]


@pytest.mark.parametrize(("problem", "point"), SINGULAR)
def test_second_derivatives_are_finite_at_singular_points(problem, point):
    instance = problem.sample_instance(jax.random.key(0))
    if point is None:
        # A residual of exactly 0.
        solved = jnp.linalg.solve(instance["w"], instance["y"])
        instance["y"] = instance["w"] @ solved
        point = (solved,)
    assert problem.objective(point, instance) >= 0
    tangent = tuple(jnp.ones_like(tensor) for tensor in point)
    slope, curve = jax.jvp(lambda x: jax.grad(problem.objective)(x, instance), (point,), (tangent,))
    for tensor in (*slope, *curve):
        assert np.all(np.isfinite(tensor))


def test_matmul_with_all_products_is_exact():
    """k = n^3 one-hot factors are the schoolbook algorithm."""
    n = 2
    a, b = np.zeros((4, 8), np.float32), np.zeros((4, 8), np.float32)
    for column, (i, j, k) in enumerate(np.ndindex(n, n, n)):
        a[n * i + j, column] = b[n * j + k, column] = 1
    assert problems.MatMulAlgorithm(n, 8).objective((a, b), {}) == pytest.approx(0, abs=1e-5)
    one_short = problems.MatMulAlgorithm(n, 7).objective((a[:, :7], b[:, :7]), {})
    assert one_short == pytest.approx(1, abs=1e-5)


def test_one_hot_and_lookup_embeddings_agree():
    lookup = problems.SparseSoftmaxRegression(5, samples=6)
    one_hot = problems.OneHotSparseSoftmaxRegression(5, samples=6)
    instance = lookup.sample_instance(jax.random.key(0))
    start = lookup.initial_parameters(jax.random.key(1), instance)
    for a, b in zip(
        jax.grad(lookup.objective)(start, instance),
        jax.grad(one_hot.objective)(start, instance),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_attention_sees_no_later_symbol():
    problem = problems.AttentionLanguageModel(5, 6, 8, samples=4)
    instance = problem.sample_instance(jax.random.key(0))
    start = problem.initial_parameters(jax.random.key(1), instance)
    symbols = instance["data"][:, :-1]
    changed = symbols.at[:, 4].set((symbols[:, 4] + 1) % 5)
    before, after = problem.logits(start, symbols), problem.logits(start, changed)
    np.testing.assert_allclose(before[:, :4], after[:, :4], atol=1e-6)
    assert np.abs(before[:, 4:] - after[:, 4:]).max() > 1e-3


@pytest.mark.parametrize(
    "problem",
    [
        problems.PowerLawQuadratic(30),
        problems.Autoencoder(64, (8,), samples=16),
        problems.RecurrentLanguageModel(4, 5, 6, samples=16),
        problems.ConvNet((8, 8, 1), 4, ((3, 3, 2),), samples=16, init="he"),
    ],
    ids=lambda problem: type(problem).__name__,
)
def test_descent_lowers_the_objective(problem):
    instance = problem.sample_instance(jax.random.key(0))
    start = problem.initial_parameters(jax.random.key(1), instance)

    def step(parameters, _):
        value, gradient = jax.value_and_grad(problem.objective)(parameters, instance)
        return tuple(p - 0.1 * g for p, g in zip(parameters, gradient, strict=True)), value

    _, values = jax.lax.scan(step, start, None, length=60)
    assert values[-1] < 0.9 * values[0]
    assert np.all(values >= 0)
