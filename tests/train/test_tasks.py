"""What the runs of meta-training tell the optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import problems
from hrnn_opt import Direction
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
