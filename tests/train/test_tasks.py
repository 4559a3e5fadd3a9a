"""What the runs of meta-training tell the optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import problems
from hrnn_opt import Direction, HierarchicalRNN
from train.config import TrainConfig
from train.lengths import horizons
from train.tasks import Family


def told(horizon):
    """(8,) what each of eight runs is told where a tenth is done."""
    family = Family(
        [problems.Quadratic(3)], Direction(), TrainConfig(models=8, horizon=horizon))
    return family._told(family.draw(jax.random.key(0)), jnp.full(8, 0.1))


def test_the_horizon_is_known_unknown_or_both():
    np.testing.assert_allclose(told("known"), np.full(8, 0.1), rtol=1e-6)
    assert told("unknown") is None
    assert set(np.array(told("both")).round(6).tolist()) == {-1.0, np.float32(0.1).round(6)}


def test_another_horizon_is_refused():
    with pytest.raises(ValueError, match="`horizon` must be one of"):
        TrainConfig(horizon="sometimes")


@pytest.mark.parametrize("steps, unroll", [(1000, 200), (2000, 2000), (500, 50), (7, 7)])
def test_runs_of_one_length_have_it(steps, unroll):
    # In 32 bits exp(log(1000)) is 1000.0001.
    config = TrainConfig(models=8, run_range=(steps, steps), unroll=unroll)
    for first in (False, True):
        drawn = horizons(jax.random.key(0), config, first)
        assert np.all(drawn <= steps) and (first or np.all(drawn == steps))


@pytest.mark.parametrize("every", [1, 3])
def test_runs_advance_as_they_are_unrolled(every):
    config = TrainConfig(models=3, unroll=6, objective_every=every, growth_limit=1.0)
    family = Family(
        [problems.FullyConnected(3, 2, (4,), samples=20, batch_size=5)], HierarchicalRNN(), config)
    meta = {name: v.value for name, v in family.network.meta_parameters.items()}
    tasks = family.draw(jax.random.key(0), True)._replace(learning_rate=jnp.array([1, 1, 1e5]))
    _, unrolled = jax.jit(family.unroll, static_argnums=2)(meta, tasks, 6)
    advanced = jax.jit(family.advance, static_argnums=2)(meta, tasks, 6)
    assert unrolled.lost.tolist() == [False, False, True]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
                 unrolled, advanced)


class Steep(problems.Quadratic):
    """e^x, summed: where it overflows so does its derivative."""

    def objective(self, parameters, instance):
        return jnp.sum(jnp.exp(parameters[0]))


def test_the_objective_has_its_derivative_and_what_is_cut_off_has_none():
    family = Family([Steep(2)], Direction(), TrainConfig(models=3, objective_least=1e-6))
    tasks = family.draw(jax.random.key(0))
    location = jnp.array([[[0.5, -1.0]], [[2.0, 0.0]], [[200.0, 0.0]]])

    def losses(location):
        objectives = family.objective(tasks.instance, tasks.place._replace(location=location))
        return jnp.sum(family._meta_objective(objectives[None], jnp.ones(3)))

    slopes = jax.grad(losses)(location)
    expected = np.exp(location[:2]) / np.sum(np.exp(location[:2]), axis=-1, keepdims=True)
    np.testing.assert_allclose(slopes[:2], expected, rtol=1e-5)
    np.testing.assert_array_equal(slopes[2], 0.0)
