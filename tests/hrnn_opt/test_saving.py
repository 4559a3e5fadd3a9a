"""A saved optimizer is the same optimizer."""

import io
import json
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import ops

from hrnn_opt import HierarchicalLOpt, HierarchicalRNN, HierarchicalRNNConfig, Pretrained
from hrnn_opt.files import resolve as resolve_lib
from tests.hrnn_opt.support import (
    apply,
    assert_equal,
    data,
    dtype_policy,
    fit,
    gradients,
    model,
    optimizer,
    values,
    variables,
    weights,
)

ARGUMENTS = {
    "weights": weights(lookahead=True), "initial_learning_rate": (1e-4, 1e-2),
    "learning_rate": 0.5, "state_dtype": "bfloat16", "seed": 7, "weight_decay": 0.01,
    "clipvalue": 1.0, "use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 3,
    "loss_scale_factor": 2.0, "gradient_accumulation_steps": 2, "name": "learned",
}


def train_on(network, steps, first=0):
    x, y = data()
    for k in range(first, first + steps):
        batch = slice(8 * (k % 4), 8 * (k % 4) + 8)
        network.train_on_batch(x[batch], y[batch])


@pytest.mark.parametrize("rebuild", [
    lambda opt: HierarchicalLOpt.from_config(opt.get_config()),
    lambda opt: HierarchicalLOpt.from_config(json.loads(json.dumps(opt.get_config()))),
    lambda opt: keras.optimizers.deserialize(
        json.loads(json.dumps(keras.optimizers.serialize(opt)))),
    lambda opt: keras.optimizers.get(keras.optimizers.serialize(opt)),
], ids=["config", "json", "deserialize", "get"])
def test_round_trip_through_the_config(rebuild):
    first = HierarchicalLOpt(**ARGUMENTS)
    second = rebuild(first)
    assert isinstance(second, HierarchicalLOpt)
    assert json.dumps(second.get_config()) == json.dumps(first.get_config())
    moved, again = variables(), variables()
    apply(first, gradients(4), moved)
    apply(second, gradients(4), again)
    assert_equal(values(moved), values(again))


def test_the_config_holds_every_argument():
    config = HierarchicalLOpt(**ARGUMENTS).get_config()
    for name, value in ARGUMENTS.items():
        if name == "weights":
            assert set(config[name]) == {"safetensors"}
        elif name != "initial_learning_rate":
            assert config[name] == value, name
    assert config["initial_learning_rate"] == [1e-4, 1e-2]
    assert config["lookahead"] is True


def test_a_schedule_travels():
    schedule = keras.optimizers.schedules.CosineDecay(1.0, 10)
    config = json.loads(json.dumps(optimizer(learning_rate=schedule).get_config()))
    again = HierarchicalLOpt.from_config(config)
    assert again._learning_rate.get_config() == schedule.get_config()


def test_untrained_weights_travel_by_name_and_seed():
    config = HierarchicalLOpt("untrained", seed=3, lookahead=True).get_config()
    assert config["weights"]["name"] == "untrained" and "safetensors" not in config["weights"]
    again = HierarchicalLOpt.from_config(config)
    assert again.lookahead
    first = HierarchicalRNN(HierarchicalRNNConfig(lookahead=True), seed=3).direction_weights
    np.testing.assert_array_equal(
        again._pretrained.arrays["direction_weights"], ops.convert_to_numpy(first))


CASES = {
    "plain": ({"weights": weights()}, 3),
    "lookahead": ({"lookahead": True}, 3),
    "half-way through accumulation": (
        {"gradient_accumulation_steps": 4, "lookahead": True, "weight_decay": 0.1}, 6),
    "ema": ({"use_ema": True, "lookahead": True, "ema_overwrite_frequency": 4}, 3),
    "narrow state, drawn rates": (
        {"state_dtype": "bfloat16", "initial_learning_rate": (1e-4, 1e-2), "seed": 5}, 3),
    "schedule": (
        {"learning_rate": keras.optimizers.schedules.ExponentialDecay(1.0, 2, 0.5)}, 3),
}


@pytest.mark.parametrize("arguments, steps", CASES.values(), ids=CASES)
def test_a_loaded_model_resumes_to_the_same_numbers(tmp_path, arguments, steps):
    network = model(optimizer=optimizer(**arguments))
    train_on(network, steps)
    network.save(tmp_path / "m.keras")
    # Another seed: nothing may depend on what this process would draw.
    keras.utils.set_random_seed(99)
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert type(loaded.optimizer) is HierarchicalLOpt
    assert_equal(values(loaded.optimizer.variables), values(network.optimizer.variables))
    train_on(network, 3, steps)
    train_on(loaded, 3, steps)
    assert_equal(values(loaded.weights), values(network.weights))
    assert_equal(values(loaded.optimizer.variables), values(network.optimizer.variables))


class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("mixed", [False, True])
def test_backup_and_restore_resumes_to_the_same_numbers(tmp_path, mixed):
    def compiled(seed):
        arguments = {"use_ema": True, "gradient_accumulation_steps": 2} if mixed else {}
        opt = optimizer(lookahead=True, **arguments)
        return model(seed, optimizer=keras.optimizers.LossScaleOptimizer(opt) if mixed else opt)

    whole = compiled(0)
    fit(whole, epochs=4)
    with pytest.raises(KeyboardInterrupt):
        fit(compiled(0), epochs=4, callbacks=[
            keras.callbacks.BackupAndRestore(str(tmp_path / "backup")), Stop()])
    resumed = compiled(1)
    fit(resumed, epochs=4, callbacks=[
        keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))])
    assert_equal(values(resumed.weights), values(whole.weights))
    assert_equal(values(resumed.optimizer.variables), values(whole.optimizer.variables))


def test_a_file_holds_each_variable_once(tmp_path):
    network = model(optimizer=optimizer())
    train_on(network, 1)
    network.save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        content = h5py.File(io.BytesIO(archive.read("model.weights.h5")))
    assert list(content["optimizer"]) == ["vars"]
    assert len(content["optimizer/vars"]) == len(network.optimizer.variables)


def test_inside_a_loss_scale_optimizer(tmp_path):
    resumes(model(optimizer=keras.optimizers.LossScaleOptimizer(optimizer(lookahead=True))),
            tmp_path)


def test_in_half_precision_where_the_policy_is_so_when_it_is_loaded(tmp_path):
    """Keras puts a loss scale around the optimizer, here and there."""
    with dtype_policy("mixed_float16"):
        network = model(optimizer=optimizer(lookahead=True))
        assert isinstance(network.optimizer, keras.optimizers.LossScaleOptimizer)
        resumes(network, tmp_path)


def resumes(network, folder):
    """Saved and loaded, it trains on to the same numbers."""
    train_on(network, 2)
    network.save(folder / "m.keras")
    loaded = keras.saving.load_model(folder / "m.keras")
    train_on(network, 2)
    train_on(loaded, 2)
    assert_equal(values(loaded.weights), values(network.weights))


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder of shipped weights that holds `test.safetensors`."""
    folder = tmp_path / "pretrained"
    folder.mkdir()
    monkeypatch.setattr(resolve_lib, "PRETRAINED_DIR", folder)
    weights(lookahead=True).save(folder / "test.safetensors")
    return folder


def test_shipped_weights_go_by_name_and_may_be_gone(tmp_path, shipped):
    network = model(optimizer=HierarchicalLOpt("test"))
    assert network.optimizer.get_config()["weights"]["name"] == "test"
    train_on(network, 3)
    network.save(tmp_path / "m.keras")
    (shipped / "test.safetensors").unlink()
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    train_on(network, 3)
    train_on(loaded, 3)
    assert_equal(values(loaded.weights), values(network.weights))
    # And once more, from a program that never had the file.
    loaded.save(tmp_path / "n.keras")
    again = keras.saving.load_model(tmp_path / "n.keras")
    assert_equal(values(again.optimizer.variables), values(loaded.optimizer.variables))


@pytest.mark.parametrize("now", ["gone", "another config", "other numbers"])
def test_a_config_alone_cannot_replace_lost_weights(shipped, now):
    config = HierarchicalLOpt("test", lookahead=False).get_config()
    (shipped / "test.safetensors").unlink()
    if now == "another config":
        weights(time_scales=2).save(shipped / "test.safetensors")
    if now == "other numbers":
        Pretrained(
            weights(seed=1).config, weights(seed=1).arrays, learning_rate=0.25,
        ).save(shipped / "test.safetensors")
    opt = HierarchicalLOpt.from_config(config)
    assert not opt.lookahead and opt.network_config == weights().config
    moved = variables()
    if now == "other numbers":
        apply(opt, gradients(1), moved)
        return
    opt.build(moved)
    with pytest.raises(ValueError, match=r"`weights` 'test'.*load its saved variables"):
        apply(opt, gradients(1), moved)
    assert_equal(values(moved), values(variables()))


def test_variables_of_another_optimizer_are_not_taken(shipped):
    """Keras warns where the numbers of variables differ, and loads none: not good enough here."""
    config = HierarchicalLOpt("test").get_config()
    (shipped / "test.safetensors").unlink()
    opt, moved = HierarchicalLOpt.from_config(config), variables()
    opt.build(moved)
    with pytest.warns(UserWarning, match="Skipping variable loading"):
        opt.load_own_variables({"0": np.zeros(())})
    with pytest.raises(ValueError, match="load its saved variables"):
        apply(opt, gradients(1), moved)


@pytest.mark.parametrize("description, message", [
    ({"safetensors": "!!"}, "`weights` in the optimizer's config are damaged"),
    ({"safetensors": "AAAA"}, "`weights` from the optimizer's config are not a safetensors file"),
    ({"safetensors": 3}, "are damaged"),
    ({}, "`weights` in the optimizer's config lack 'name'"),
    ({"name": "x", "config": {"speed": 1}}, "switches that 'hrnn' does not know: speed"),
    ({"name": "x", "config": {}}, "the settings must be"),
])
def test_damaged_descriptions_of_weights_are_refused(description, message):
    with pytest.raises(ValueError, match=message):
        HierarchicalLOpt(description)


def test_loading_weights_into_the_model_moves_its_true_parameters():
    """`load_weights` between two calls of `fit` must not be undone by the optimizer's memory."""
    network = model(optimizer=optimizer(lookahead=True))
    train_on(network, 3)
    assert any(
        not np.array_equal(a, b) for a, b in zip(
            values(network.trainable_weights), values(network.optimizer.true_parameters())))
    fresh = values(model(seed=1).trainable_weights)
    network.optimizer.finalize_variable_values(network.trainable_weights)
    network.set_weights(fresh)
    assert_equal(values(network.optimizer.true_parameters()), fresh)
    network.optimizer.learning_rate = 0.0
    fit(network)
    assert_equal(values(network.trainable_weights), fresh)
