"""Alignment control: that it finds the size of steps by itself, as the shipped `default` does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import problems
from hrnn_opt import Alignment, Averaging, Direction, Layout, Rescaling, Seen
from problems.datasets import Digits
from train.config import TrainConfig
from train.tasks import Family

NOISY = problems.FullyConnected(64, 10, (32,), data=Digits(), samples=1500, batch_size=32)


@functools.cache
def _trained(problem: problems.Problem, control: bool, rates: tuple[float, ...], steps: int = 1000):
    """(M,) losses relative to the start, and rates after so many steps, of runs from these rates
    that are alike in all else."""
    core = Rescaling(Direction())
    network = Averaging(Alignment(core) if control else core)
    config = TrainConfig(models=len(rates), unroll=steps, objective_every=steps)
    family = Family([problem], network, config)
    tasks = jax.jit(family.draw)(jax.random.key(0))
    alike = jax.tree.map(
        lambda x: jnp.broadcast_to(x[:1], x.shape), tasks._replace(state=None))
    tasks = alike._replace(state=tasks.state, learning_rate=jnp.array(rates))
    meta = {name: v.value for name, v in network.meta_parameters.items()}
    done = jax.jit(lambda meta: family.unroll(meta, tasks, steps)[1])(meta)
    losses = family.objective(done.instance, done.place) / done.first_objective
    factor = np.exp(done.state["log_step_size"]) if control else 1.0
    return np.array(losses), np.array(rates) * factor


def test_rates_decades_apart_come_to_the_same():
    rates = (1e-4, 1e-3, 1e-2)
    losses, found = _trained(NOISY, True, rates, 2000)
    assert np.max(losses) < 1.1 * np.min(losses)
    assert np.max(found) < 4 * np.min(found)
    uncontrolled, _ = _trained(NOISY, False, rates, 2000)
    assert uncontrolled[0] > 3.0 * losses[0]


def test_a_rate_that_is_too_high_falls():
    (loss,), (found,) = _trained(NOISY, True, (0.3,))
    (uncontrolled,), _ = _trained(NOISY, False, (0.3,))
    assert found < 0.15
    assert loss < 0.8 * uncontrolled


@pytest.mark.parametrize("problem", [problems.Quadratic(50), problems.Rosenbrock()])
def test_steps_grow_where_gradients_have_no_noise(problem):
    (loss,), (found,) = _trained(problem, True, (1e-3,), 500)
    (uncontrolled,), _ = _trained(problem, False, (1e-3,), 500)
    assert found > 0.01
    assert loss < 0.02 * uncontrolled


def _steered(
    guarded: bool, sizes: np.ndarray, reads: np.ndarray | None = None, observed: bool = False,
) -> float | np.ndarray:
    """The log of the factor of all updates, after gradients of these sizes that point one way; or
    what was observed."""
    alignment = Alignment(Direction(), guarded=guarded, reads=reads is not None)
    if reads is not None:
        alignment.alignment_reads.assign(reads)
    network, layout = Averaging(alignment), Layout([(6, 4)])
    state, drawn = network.init_state(layout), np.random.default_rng(0).normal(size=(6, 4))
    gradient = layout.flatten([jnp.array(drawn, "float32")])

    def step(state, size):
        # The average lags behind the fast iterate, which moves against the gradient.
        return network.step(layout, state, Seen(size * gradient, offset=gradient))[0], None

    state, _ = jax.lax.scan(step, state, jnp.array(sizes, "float32"))
    return np.array(state["alignment_observed"]) if observed else float(state["log_step_size"])


def test_guarded_steps_do_not_grow_where_gradients_vanish():
    still, vanishing = np.ones(400), 0.95 ** np.arange(400)
    assert _steered(False, vanishing) > 1.0
    assert _steered(True, vanishing) < 0.5
    assert abs(_steered(True, still) - _steered(False, still)) < 0.01


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e12, 1e18])
def test_guarded_growth_is_the_same_at_any_size_of_gradients(size):
    usual = _steered(True, np.ones(100))
    found = _steered(True, np.full(100, size))
    # Next to 0 nothing is felt.
    assert found == pytest.approx(usual, abs=0.01) if size > 1e-9 else -0.1 < found < usual + 0.01


@pytest.mark.parametrize("size", [1e-4, 1e12])
def test_readings_are_the_same_at_any_size_of_gradients(size):
    weights = np.full((6, 3), 0.5, "float32")
    sizes = 0.97 ** np.arange(100)
    usual, found = (_steered(True, scale * sizes, weights) for scale in (1e-3, 1e-3 * size))
    assert found == pytest.approx(usual, abs=0.01)


def test_nothing_changes_until_readings_are_weighed():
    sizes = 0.97 ** np.arange(200)
    assert _steered(True, sizes, np.zeros((6, 3))) == pytest.approx(_steered(True, sizes), abs=1e-6)


@pytest.mark.parametrize(("output", "least", "most"), [(1, 0.5, 9.0), (2, -9.0, -0.02)])
def test_readings_steer_gain_and_decay(output, least, most):
    weights = np.zeros((6, 3), "float32")
    # The clock.
    weights[5, output] = 2.0
    still = np.ones(300)
    assert least < _steered(True, still, weights) - _steered(True, still) < most


def test_the_fall_of_gradients_is_observed_from_the_first_on():
    log_norm, _, cosine, square, largest, steps = _steered(
        True, 1e-3 * 0.95 ** np.arange(300), np.zeros((6, 3)), observed=True)
    assert steps == 300
    # The mean lags behind by 100 steps.
    assert log_norm - largest == pytest.approx(300 * np.log(0.95), rel=0.5)
    assert cosine == pytest.approx(1.0, abs=0.2)
    assert square == pytest.approx(cosine**2, abs=0.2)
