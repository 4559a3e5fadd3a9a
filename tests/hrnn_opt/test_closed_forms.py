"""Each closed form beside a numerical solution of its convex problem, and beside the optimizer that
it is said to be."""

import keras
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
from keras import ops

from hrnn_opt.switch import closed_forms

B, LARGEST, N = 1.7, 0.8, 3


def symmetric(numbers):
    """(N, N) from N (N + 1) / 2 numbers."""
    matrix = np.zeros((N, N))
    matrix[np.triu_indices(N)] = numbers
    return matrix + matrix.T


def positive(numbers):
    return symmetric(numbers) @ symmetric(numbers)


def bounded(numbers, largest):
    """Any matrix with eigenvalues from 0 to the largest, both reached inside of the domain."""
    values, vectors = np.linalg.eigh(symmetric(numbers))
    return largest / 2 * (np.eye(N) + vectors * np.sin(values) @ vectors.T)


def moment(seed=0):
    g = np.random.default_rng(seed).normal(size=(50, N)) * [1.0, 2.0, 0.5] @ np.array(
        [[1, 0.3, 0], [0, 1, -0.4], [0, 0, 1]])
    return g.T @ g / 50


def largest_power(optimizer_of, s, size=N * (N + 1) // 2, constraints=()):
    """The largest power over a parametrised set, by SLSQP from several starts."""
    rng = np.random.default_rng(1)
    found = [
        scipy.optimize.minimize(
            lambda x: -np.sum(optimizer_of(x) * s), rng.normal(size=size), method="SLSQP",
            constraints=constraints, options={"ftol": 1e-14, "maxiter": 1000})
        for _ in range(6)]
    return max(-one.fun for one in found if np.isfinite(one.fun))


def numpy(x):
    return np.asarray(ops.convert_to_numpy(x), "float64")


def given(x):
    return ops.convert_to_tensor(np.asarray(x, "float32"))


S = moment()
M = moment(5) + np.eye(N)
C = np.array([0.7, 1.1, 2.0])
G = np.random.default_rng(3).normal(size=(2, 3))
R = 0.8 ** np.arange(4) + np.array([0.5, 0, 0, 0])


def rotation(numbers, n):
    skew = np.zeros((n, n))
    skew[np.triu_indices(n, 1)] = numbers
    return scipy.linalg.expm(skew - skew.T)


def bounded_step(x):
    """Any 2 x 3 matrix of spectral norm B at most, but for a reflection."""
    singular = np.zeros((2, 3))
    singular[[0, 1], [0, 1]] = B * np.sin(x[:2])
    return rotation(x[2:3], 2) @ singular @ rotation(x[3:], 3)


CASES = {
    "frobenius": (
        lambda: closed_forms.frobenius(given(S), B), S,
        lambda x: B * positive(x) / np.linalg.norm(positive(x)), {}),
    "spectral": (
        lambda: closed_forms.spectral(given(S), B), S, lambda x: bounded(x, B), {}),
    "trace": (
        lambda: closed_forms.trace(given(S), B), S,
        lambda x: B * positive(x) / np.trace(positive(x)), {}),
    "water filling": (
        lambda: closed_forms.water_filling(given(S), LARGEST, B), S,
        lambda x: bounded(x, LARGEST),
        {"constraints": {"type": "ineq", "fun": lambda x: B - np.trace(bounded(x, LARGEST))}}),
    "mean square": (
        lambda: closed_forms.metric(given(S), given(np.eye(N)), B), S,
        lambda x: B * positive(x) / np.sqrt(np.trace(positive(x) @ S @ positive(x))), {}),
    "metric": (
        lambda: closed_forms.metric(given(S), given(M), B), S,
        lambda x: B * positive(x) / np.sqrt(np.trace(M @ positive(x) @ S @ positive(x))), {}),
    "diagonal": (
        lambda: closed_forms.diagonal(given(np.diag(S)), given(C), B), np.diag(S),
        lambda x: B * x**2 / np.sqrt(np.sum(C * x**4)), {"size": N}),
    "coordinates": (
        lambda: closed_forms.coordinates(given(np.diag(S)), B), np.diag(S),
        lambda x: B * np.sin(x) / np.sqrt(np.diag(S)), {"size": N}),
    "orthogonal": (
        lambda: closed_forms.orthogonal(given(G), B), G, bounded_step, {"size": 6}),
    "matched filter": (
        lambda: closed_forms.matched_filter(given(R), B), R,
        lambda x: B * x / np.linalg.norm(x), {"size": 4}),
}


@pytest.mark.parametrize("closed, s, of, settings", CASES.values(), ids=CASES)
def test_a_closed_form_is_the_numerical_optimum(closed, s, of, settings):
    ours = float(np.sum(numpy(closed()) * s))
    assert ours == pytest.approx(largest_power(of, s, **settings), rel=1e-5)
    assert float(closed_forms.power(closed(), given(s))) == pytest.approx(ours, rel=1e-5)


@pytest.mark.parametrize("name, measure", [
    ("frobenius", lambda q: np.linalg.norm(q)),
    ("spectral", lambda q: np.linalg.norm(q, 2)),
    ("trace", np.trace),
    ("water filling", np.trace),
    ("mean square", lambda q: np.sqrt(np.trace(q @ S @ q))),
    ("metric", lambda q: np.sqrt(np.trace(M @ q @ S @ q))),
    ("diagonal", lambda q: np.sqrt(np.sum(C * q**2))),
    ("coordinates", lambda q: np.sqrt(np.max(q**2 * np.diag(S)))),
    ("orthogonal", lambda u: np.linalg.norm(u, 2)),
    ("matched filter", np.linalg.norm),
])
def test_a_closed_form_spends_its_budget_and_no_more(name, measure):
    assert measure(numpy(CASES[name][0]())) == pytest.approx(B, rel=1e-5)


def test_water_filling_fills_the_leading_eigenvectors():
    q = numpy(closed_forms.water_filling(given(S), LARGEST, B))
    np.testing.assert_allclose(np.linalg.eigvalsh(q), [B - 2 * LARGEST, LARGEST, LARGEST],
                               atol=1e-5)


# The optimizers that they are.


def moved(optimizer, gradients, shape):
    """How far Keras's optimizer moves variables that start at 0."""
    variable = keras.Variable(np.zeros(shape, "float32"))
    for gradient in gradients:
        before = numpy(variable)
        optimizer.apply([given(gradient)], [variable])
    return before - numpy(variable)


def test_the_spectral_family_is_gradient_descent():
    g = np.array([0.3, -2.0, 1.0])
    np.testing.assert_allclose(
        numpy(closed_forms.spectral(given(S), 0.1)) @ g,
        moved(keras.optimizers.SGD(0.1), [g], 3), rtol=1e-5)


def test_the_diagonal_family_is_adam_and_rmsprop():
    gradients = np.random.default_rng(0).normal(size=(20, 3)) * [1.0, 30.0, 0.1]
    weights = 0.1 * 0.9 ** np.arange(19, -1, -1)
    squares = weights @ gradients**2
    step = numpy(closed_forms.coordinates(given(squares), 0.01)) * gradients[-1]
    rmsprop = keras.optimizers.RMSprop(0.01, rho=0.9, epsilon=1e-12)
    np.testing.assert_allclose(step, moved(rmsprop, gradients, 3), rtol=1e-4)
    # Adam without momentum, which is corrected for its start.
    corrected = numpy(closed_forms.coordinates(given(squares / weights.sum()), 0.01))
    adam = keras.optimizers.Adam(0.01, beta_1=0.0, beta_2=0.9, epsilon=1e-12)
    np.testing.assert_allclose(
        corrected * gradients[-1], moved(adam, gradients, 3), rtol=1e-4)
    # The sum of costs s^3 gives the same direction.
    by_costs = numpy(closed_forms.diagonal(given(squares), given(squares**1.5), 1.0))
    np.testing.assert_allclose(by_costs / by_costs[0] * corrected[0], corrected, rtol=1e-4)


def test_a_metric_is_natural_gradient_newton_and_adagrad():
    """Of a quadratic loss, Newton's step goes to the minimum in a straight line; the natural one is
    the same in any coordinates; AdaGrad's metric is the root of the moment."""
    g = np.array([0.3, -2.0, 1.0])
    newton = numpy(closed_forms.metric(given(S), given(M), B)) @ g
    np.testing.assert_allclose(
        newton / newton[0], np.linalg.solve(M, g) / np.linalg.solve(M, g)[0], rtol=1e-4)
    # Parameters t = A t': g' = A' g, S' = A' S A, and a Fisher matrix is a metric: F' = A' F A.
    a = np.array([[2.0, 1, 0], [0, 0.5, 0], [1, 0, 3]])
    other = numpy(closed_forms.metric(given(a.T @ S @ a), given(a.T @ M @ a), B)) @ (a.T @ g)
    np.testing.assert_allclose(a @ other, newton, rtol=1e-4)
    adagrad = numpy(closed_forms.metric(given(S), given(scipy.linalg.sqrtm(S).real), B))
    expected = np.linalg.inv(scipy.linalg.sqrtm(S).real)
    np.testing.assert_allclose(adagrad / adagrad[0, 0], expected / expected[0, 0], rtol=1e-3)


def test_a_bounded_matrix_step_is_muon():
    """Muon orthogonalises by five iterations, which leave singular values near 1."""
    g = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0] * np.linspace(0.5, 1.5, 8)
    muon = keras.optimizers.Muon(1.0, momentum=0.0, nesterov=False, weight_decay=0.0)
    step = moved(muon, [g], (8, 8))
    u, v = numpy(closed_forms.orthogonal(given(g), 1.0)), step
    cosine = np.sum(u * v) / np.linalg.norm(u) / np.linalg.norm(v)
    assert cosine > 0.98


def test_the_eigenbasis_step_is_that_of_coordinates_where_the_basis_is_the_standard_one():
    g = np.random.default_rng(0).normal(size=(2, 3))
    squares = np.random.default_rng(1).uniform(0.5, 2, size=(2, 3))
    step = numpy(closed_forms.eigenbasis(
        given(g), given(np.diag([1.0, 2.0])), given(np.diag([1.0, 2.0, 3.0])), given(squares), B))
    np.testing.assert_allclose(step, B * g / np.sqrt(squares), rtol=1e-4)
    # In other bases, what is turned on both sides gives the turned step.
    u, v = rotation(0.5, 2), rotation([0.2, -0.4, 1.0], 3)
    turned = numpy(closed_forms.eigenbasis(
        given(u @ g @ v.T), given(u @ np.diag([1.0, 2.0]) @ u.T),
        given(v @ np.diag([1.0, 2.0, 3.0]) @ v.T), given(squares), B))
    np.testing.assert_allclose(turned, u @ step @ v.T, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("noise, best", [(0.0, 0.8), (1.0, 0.6), (100.0, 0.0)])
def test_the_best_momentum_is_the_memory_of_the_gradient_less_for_noise(noise, best):
    """R(k) = 0.8^k and white noise: among filters of one norm, the closed form of the power."""
    autocorrelation = given(0.8 ** np.arange(400) + noise * (np.arange(400) == 0))
    decays = [0.0, 0.6, 0.8, 0.95]
    scores = []
    for decay in decays:
        taps = closed_forms.one_pole(decay, 400) * np.sqrt(1 - decay**2)
        scores.append(float(closed_forms.filter_power(taps, autocorrelation)))
        exact = (noise + 1 / (1 - decay * 0.8)) * np.sqrt(1 - decay**2)
        assert scores[-1] == pytest.approx(exact, rel=1e-4)
    assert decays[int(np.argmax(scores))] == best
