"""Starts of meta-training: that the rule in them does what it says."""

import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import problems
from hrnn_opt import HierarchicalRNN, HierarchicalRNNConfig, Pretrained, Seen
from hrnn_opt.files.resolve import resolve
from hrnn_opt.networks.hrnn.starts import controlled
from hrnn_opt.places.layout import Layout
from hrnn_opt.registry import config_from_dict, network_of
from problems.datasets import Digits
from tests import quickly
from train.config import TrainConfig
from train.tasks import Family
from train.trainer import Trainer

STEPS = 300


@pytest.fixture(scope="module")
def network() -> HierarchicalRNN:
    network = HierarchicalRNN(seed=0)
    controlled(network)
    return network


def _noise(key: jax.Array, size: int) -> jax.Array:
    return jax.random.normal(key, (STEPS, size))


def _half_of_them_zero(key: jax.Array, size: int) -> jax.Array:
    return _noise(key, size) * (jnp.arange(size) % 2)


def _agreeing(key: jax.Array, size: int) -> jax.Array:
    return _noise(key, size) + 1.0


def _turning_back(key: jax.Array, size: int) -> jax.Array:
    noise = _noise(key, size)
    return noise.at[1:].add(-0.7 * noise[:-1])


@pytest.mark.parametrize("gradients, low, high", [
    (_noise, -0.9, -0.75), (_half_of_them_zero, -0.65, -0.45), (_agreeing, -1.0, -0.9),
    (_turning_back, 0.5, 1.0)])
def test_the_tensors_tell_noise_from_gradients_that_agree(network, gradients, low, high):
    layout = Layout([(64, 32)])
    rates = jnp.full((layout.blocks, layout.lanes), jnp.log(1e-3))

    @jax.jit
    def run(given):
        def step(state, gradient):
            flat = layout.flatten([gradient.reshape(64, 32)])
            state, _ = network.step(layout, state, Seen(flat))
            return state, state["tensor_hidden"][0, 0]

        return jax.lax.scan(step, network.init_state(layout, log_rates=rates), given)[1]

    told = run(gradients(jax.random.key(0), 2048))
    assert low <= np.mean(told[STEPS // 2:]) <= high


def test_it_learns_from_initial_rates_three_decades_apart(network):
    rates = (1e-5, 1e-3, 1e-2)
    config = TrainConfig(models=len(rates), unroll=2000, objective_every=2000)
    family = Family([problems.FullyConnected(
        64, 10, (32,), data=Digits(), samples=1500, batch_size=32)], network, config)
    tasks = jax.jit(family.draw)(jax.random.key(0))
    log_rates = jnp.broadcast_to(
        jnp.log(jnp.array(rates))[:, None, None], tasks.state["log_learning_rate"].shape)
    tasks = tasks._replace(state=tasks.state | {"log_learning_rate": log_rates})

    run = jax.jit(lambda meta: family.unroll(meta, tasks, 2000)[1],
                  compiler_options=quickly.FOR_LONG_RUNS)

    def losses(of):
        done = run({name: v.value for name, v in of.meta_parameters.items()})
        return family.objective(done.instance, done.place) / done.first_objective

    slowest, *others = losses(network)
    assert slowest < 0.5 and max(others) < 0.12
    assert losses(HierarchicalRNN(seed=0))[0] > 0.9


def test_training_starts_from_it(network):
    meta = Trainer(TrainConfig(suite="bowl", start="controlled")).meta
    for name, variable in network.meta_parameters.items():
        np.testing.assert_array_equal(meta[name], variable.value)


def test_the_shipped_weights_of_the_papers_form_are_meta_trained_from_it(network):
    shipped = resolve("paper")
    assert shipped.config == network.network_config and shipped.initial_learning_rate == 1e-2
    held = re.compile("global_start|global_rnn/|learning_rate_")
    for name, variable in network.meta_parameters.items():
        moved = np.abs(shipped.arrays[name] - np.array(variable))
        if held.match(name):
            assert np.max(moved) < 1e-7, name
        else:
            assert 0 < np.max(moved) < 0.01, name


def test_another_form_is_refused():
    config = HierarchicalRNNConfig(lookahead=True)
    with pytest.raises(ValueError, match="`network` must have the default switches"):
        controlled(HierarchicalRNN(config))
    with pytest.raises(ValueError, match=r"`start` must be one of \['drawn'\] for this network"):
        TrainConfig(
            suite="bowl", network={"kind": "coordinatewise_lstm"}, start="controlled")
    with pytest.raises(ValueError, match="`start` must be 'drawn' with initial_weights"):
        TrainConfig(start="controlled", initial_weights="some.safetensors")
    with pytest.raises(ValueError, match="`start` must be one of"):
        dataclasses.replace(TrainConfig(), start="warm")


# The stages of a meta-training.

CELO = {"kind": "celo", "units": 3}


@pytest.fixture
def first_stage(tmp_path):
    path = tmp_path / "network.safetensors"
    network = network_of(config_from_dict({**CELO, "scheduled": False}), seed=5)
    Pretrained.from_network(network).save(path)
    return str(path)


def test_a_second_stage_starts_from_the_first_and_holds_it(first_stage):
    """As Celo's: the network's numbers, inside of another config."""
    recipe = Path(__file__).parents[2] / "train" / "recipes" / "celo_schedule.json"
    config = dataclasses.replace(
        TrainConfig.from_json(recipe.read_text()), suite="bowl", network=CELO,
        initial_weights=first_stage)
    trainer, first = Trainer(config), Pretrained.load(first_stage)
    assert first.config != config.network_config
    assert set(trainer.meta) == set(first.arrays)
    for name, value in trainer.meta.items():
        np.testing.assert_array_equal(value, first.arrays[name])
        assert config.trains(name) != name.startswith(("kernel", "bias"))
    assert trainer.weights_file().config == config.network_config == config_from_dict(CELO)


@pytest.mark.parametrize("network, said", [
    ({**CELO, "units": 4}, r"got the kind 'celo'; .* \['across_bias', 'across_kernel'"),
    ({**CELO, "direction": "adam"}, r"got the kind 'celo'; .* \['bias_0', 'bias_1'"),
    ({**CELO, "rules": [["alignment", {}]]}, "got the kind 'celo'; "),
    ({"kind": "velo"}, "got the kind 'celo'"),
])
def test_numbers_for_another_network_are_refused(first_stage, network, said):
    kind = f"`initial_weights` must have the kind '{network['kind']}' .*"
    with pytest.raises(ValueError, match=kind + said):
        Trainer(TrainConfig(suite="bowl", network=network, initial_weights=first_stage))
