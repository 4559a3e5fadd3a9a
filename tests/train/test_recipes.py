"""The ready configs of meta-training."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hrnn_opt.registry import network_of
from train.config import TrainConfig
from train.meta_optimizer import meta_optimizer
from train.suites import weighted_specs

RECIPES = sorted((pathlib.Path(__file__).parents[2] / "train" / "recipes").glob("*.json"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_good_configs(path):
    config = TrainConfig.from_json(path.read_text())
    assert network_of(config.network_config).meta_parameters
    assert len(weighted_specs(config.suite)) >= config.families
    # Nothing but what a reader of the recipe sees is decided.
    assert set(json.loads(path.read_text())) <= set(json.loads(config.to_json()))


def test_adamw_decays_what_is_trained_alone():
    config = TrainConfig(meta_optimizer="adamw", trainable="a", warmup=0, meta_learning_rate=0.5)
    meta = {"a": jnp.ones(2), "b": jnp.ones(2)}
    optimizer = meta_optimizer(config)
    zeros = jax.tree.map(jnp.zeros_like, meta)
    updates, _ = optimizer.update(zeros, optimizer.init(meta), meta)
    np.testing.assert_allclose(updates["a"], -0.5 * 1e-4, rtol=1e-5)
    np.testing.assert_array_equal(updates["b"], 0.0)
