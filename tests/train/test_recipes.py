"""The ready configs of meta-training, and a step of it with networks that read much."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hrnn_opt.registry import network_of
from train import estimators
from train.config import TrainConfig
from train.meta_optimizer import meta_optimizer
from train.suites import families, weighted_specs

RECIPES = sorted((pathlib.Path(__file__).parents[2] / "train" / "recipes").glob("*.json"))
SMALL = {"celo2": {"units": 4}, "velo": {"units": 4, "bank": 2}}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_good_configs(path):
    config = TrainConfig.from_json(path.read_text())
    assert network_of(config.network_config).meta_parameters
    assert len(weighted_specs(config.suite)) >= config.families
    # Nothing but what a reader of the recipe sees is decided.
    assert set(json.loads(path.read_text())) <= set(json.loads(config.to_json()))


@pytest.mark.parametrize("kind, estimator", [
    ("velo", "tbptt"), ("celo2", "pes")])
def test_a_meta_gradient(kind, estimator):
    config = TrainConfig(
        suite="bowl", network={"kind": kind, **SMALL[kind]}, estimator=estimator, members=2,
        models=2, families=1, unroll=2, run_range=(4, 4))
    network = network_of(config.network_config)
    family = families(config, network)[0][0]
    meta = {name: jnp.asarray(v.value) for name, v in network.meta_parameters.items()}
    made = estimators.make(family, config)
    state = made.init(jax.random.key(0), meta)
    estimate, _ = made.estimate(meta, state, jax.random.key(1), 1)
    norms = [float(jnp.linalg.norm(g)) for g in estimate.gradients.values()]
    assert np.isfinite(norms).all() and sum(norms) > 0


def test_adamw_decays_what_is_trained_alone():
    config = TrainConfig(meta_optimizer="adamw", trainable="a", warmup=0, meta_learning_rate=0.5)
    meta = {"a": jnp.ones(2), "b": jnp.ones(2)}
    optimizer = meta_optimizer(config)
    zeros = jax.tree.map(jnp.zeros_like, meta)
    updates, _ = optimizer.update(zeros, optimizer.init(meta), meta)
    np.testing.assert_allclose(updates["a"], -0.5 * 1e-4, rtol=1e-5)
    np.testing.assert_array_equal(updates["b"], 0.0)
