"""Statistics of batch normalization, taken anew."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from hrnn_opt import LearnedOpt, RefreshStatistics, refresh_statistics


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(2.0, 3.0, (48, 5)).astype("float32")


def network():
    keras.utils.set_random_seed(1)
    return keras.Sequential([
        keras.Input((5,)), layers.Dense(4), layers.BatchNormalization(), layers.Dropout(0.5),
        layers.Dense(1)])


def statistics(model):
    layer = model.layers[1]
    return [ops.convert_to_numpy(v) for v in (layer.moving_mean, layer.moving_variance)]


def expected(model, x, size):
    """Means over examples of the batches' means and variances."""
    y = ops.convert_to_numpy(model.layers[0](x))
    batches = [y[i:i + size] for i in range(0, len(y), size)]
    sizes = [len(b) for b in batches]
    return [np.average([f(b, axis=0) for b in batches], axis=0, weights=sizes)
            for f in (np.mean, np.var)]


def as_pairs(x):
    return ((x[i:i + 32], x[i:i + 32, :1]) for i in range(0, len(x), 32))


@pytest.mark.parametrize("given", [
    lambda x: x, lambda x: [x[:32], x[32:]], as_pairs],
    ids=["array", "batches", "pairs"])
def test_they_are_those_of_the_data_and_nothing_else_changes(x, given):
    model = network()
    model.predict(x, verbose=0)
    others = {v.path: ops.convert_to_numpy(v).copy() for v in model.variables
              if "moving" not in v.path}
    assert refresh_statistics(model, given(x)) == 1
    for found, wanted in zip(statistics(model), expected(model, x, 32)):
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-5)
    for v in model.variables:
        if v.path in others:
            np.testing.assert_array_equal(ops.convert_to_numpy(v), others[v.path])
    assert model.layers[1].momentum == 0.99


def test_what_is_frozen_stays(x):
    model = network()
    model.layers[1].trainable = False
    assert refresh_statistics(model, x) == 0
    np.testing.assert_array_equal(statistics(model)[0], np.zeros(4))


@pytest.mark.parametrize("data, message", [
    ([], "`data` must have at least one example"),
    (np.zeros((0, 5), "float32"), "`data` must have at least one example"),
])
def test_no_data_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        refresh_statistics(network(), data)


@pytest.mark.parametrize("batch_size", [0, 2.5, True])
def test_no_batch_size_is_refused(x, batch_size):
    with pytest.raises(ValueError, match="`batch_size` must be an integer of at least 1"):
        refresh_statistics(network(), x, batch_size)


def test_after_an_error_they_are_what_they_were(x):
    model = network()
    before = statistics(model)
    with pytest.raises(Exception, match=r".*"):
        refresh_statistics(model, [x, x[:, :3]])
    np.testing.assert_array_equal(statistics(model), before)
    assert model.layers[1].momentum == 0.99


def test_fit_evaluates_and_ends_with_them(x):
    y = (x[:, :1] > 2.0).astype("float32")
    model = network()
    model.compile(optimizer=LearnedOpt("rule"), loss="mse")
    history = model.fit(x, y, epochs=2, validation_data=(x, y), verbose=0,
                        callbacks=[RefreshStatistics(x)]).history
    for found, wanted in zip(statistics(model), expected(model, x, 32)):
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-5)
    # What was shown last is what is there now.
    np.testing.assert_allclose(
        model.evaluate(x, y, verbose=0), history["val_loss"][-1], rtol=1e-5)


def test_a_network_that_remembers_a_thousand_steps_is_trained_further():
    # MobileNet's momentum: what 60 steps do to the weights is not in the statistics.
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 256)
    x = rng.normal(0.0, 1.0, (256, 8)).astype("float32")
    x[:, 0] += 4.0 * y
    keras.utils.set_random_seed(1)
    model = keras.Sequential([
        keras.Input((8,)), layers.Dense(16), layers.BatchNormalization(momentum=0.999),
        layers.ReLU(), layers.Dense(2)])
    refresh_statistics(model, x)

    def losses(*callbacks):
        model.compile(LearnedOpt("rule", seed=0),
                      keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        start = model.get_weights()
        history = model.fit(x, y, epochs=8, shuffle=False, verbose=0, validation_data=(x, y),
                            callbacks=callbacks).history
        model.set_weights(start)
        return history["loss"][-1], history["val_loss"][-1]

    trained, hidden = losses()
    again, seen = losses(RefreshStatistics(x))
    assert again == pytest.approx(trained, rel=1e-4)
    assert hidden > 2 * trained and seen < 1.2 * trained
