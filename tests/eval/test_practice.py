"""Tasks as users have them: what they hold, and that their losses are what they say."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops

from eval.runs import losses, networks, practice
from problems import real_data

if keras.backend.backend() != "jax":
    pytest.skip("needs the JAX backend", allow_module_level=True)


@pytest.mark.parametrize("name", ["letters_transformer", "play_lstm", "ratings", "shuttle"])
def test_data_and_network_fit(name):
    task = practice.TASKS[name]
    data = task.data()
    assert len(data.x_train) >= 800 and len(data.x_test) >= 100
    classes = int(data.y_train.max()) + 1
    model = networks.build(task.network, data.x_train.shape[1:], classes)
    outputs = model(data.x_train[:4])
    example_losses, _ = losses.measures(model)
    assert np.isfinite(ops.convert_to_numpy(example_losses(data.y_train[:4], outputs))).all()
    expected = data.y_train[:4].shape + (() if name == "shuttle" else (classes,))
    assert outputs.shape == expected
    assert name == "shuttle" or int(data.y_test.max()) < classes


def test_letters_to_test_on_are_of_other_fonts(monkeypatch):
    data = practice.greek()
    assert data.x_train.shape == (4096, 36, 36, 1)
    assert set(data.y_test) <= set(data.y_train) == set(range(29))
    # Ink is 1, five times the noise's deviation.
    assert 1.1 < np.quantile(data.x_train, 0.995) < 1.5
    # Fonts that are told by their grey, which neither moves nor noise take away.
    greys = np.broadcast_to(np.arange(8, dtype="uint8")[:, None, None] * 2, (29, 8, 12, 12))
    monkeypatch.setattr(real_data, "arrays", lambda: {"held_out_letters": greys})
    data = practice.greek.__wrapped__()
    fonts = [set(np.round(x.mean((1, 2, 3)) * 7.5)) for x in (data.x_train, data.x_test)]
    assert fonts == [{0, 1, 2, 3, 4, 5}, {6, 7}]


def test_tasks_on_the_same_data_share_them():
    assert practice.TASKS["tuned_layer"].data() is practice.TASKS["tuned_whole"].data()


def test_squares_are_of_outputs_less_targets():
    model = networks.build(practice.regressor, (3,), 1)
    example_losses, example_accuracies = losses.measures(model)
    targets, outputs = np.array([[1.0], [2.0]], "float32"), np.array([[3.0], [2.5]], "float32")
    np.testing.assert_allclose(example_losses(targets, outputs), [4.0, 0.25])
    np.testing.assert_allclose(example_accuracies(targets, outputs), [-3.0, 0.75])


def test_the_residual_is_that_of_the_equation():
    """Beside derivatives by JAX of the function that the layers make."""
    import jax

    model = networks.build(practice.physics, (2,), 1, seed=3)
    *hidden, last = [layer for layer in model.layers if isinstance(layer, practice._Jets)]
    for layer in [*hidden, last]:
        layer.shift.assign(np.linspace(-0.5, 0.5, layer.units))

    def u(x, t):
        y = ops.stack([x, t])
        for layer in hidden:
            y = ops.tanh(y @ layer.dense.kernel.value + layer.shift.value)
        n = (y @ last.dense.kernel.value + last.shift.value)[0]
        return t * (1 - x**2) * n - ops.sin(np.pi * x)

    def residual(x, t):
        u_x = jax.grad(u)
        return (jax.grad(u, 1)(x, t) + u(x, t) * u_x(x, t)
                - 0.05 * jax.grad(u_x)(x, t))

    places = practice.burgers().x_train[:8]
    expected = [residual(x, t) for x, t in places]
    np.testing.assert_allclose(model(places)[:, 0], expected, rtol=1e-4, atol=1e-4)


def test_what_was_taught_before_is_there_and_the_rest_is_drawn_by_the_seed(monkeypatch):
    taught = practice._backbone((36, 36)).get_weights()
    calls = []

    def teach(name):
        calls.append(name)
        keras.utils.set_random_seed(len(calls))
        return taught

    monkeypatch.setattr(practice, "_taught_weights", teach)
    first, again = (networks.build(practice.tuned_whole, (36, 36, 1), 29, seed=5) for _ in range(2))
    for a, b in zip(first.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(first.get_weights(), taught):
        np.testing.assert_array_equal(a, b)


def test_a_layer_on_features_is_trained_as_on_the_frozen_network(monkeypatch):
    """Its outputs in training, and so its losses and gradients, are those of the whole model."""
    few = practice.greek().part(24)
    monkeypatch.setattr(practice, "greek", lambda: few)
    monkeypatch.setattr(practice, "_taught_weights", lambda name: taught)
    taught = practice._backbone((36, 36)).get_weights()
    seen = practice.features.__wrapped__()
    layer = networks.build(practice.tuned_layer, (36, 36, 1), 29, seed=5)
    whole = networks.build(practice.tuned_whole, (36, 36, 1), 29, seed=5)
    for part in whole.layers[:-1]:
        part.trainable = False
    whole.layers[-1].set_weights(layer.get_weights())
    assert [v.shape for v in layer.trainable_variables] == [
        v.shape for v in whole.trainable_variables] == [(1280, 29), (29,)]
    for part in ("train", "test"):
        np.testing.assert_array_equal(getattr(seen, f"y_{part}"), getattr(few, f"y_{part}"))
        np.testing.assert_allclose(
            layer(getattr(seen, f"x_{part}")), whole(getattr(few, f"x_{part}"), training=True),
            rtol=1e-4, atol=1e-5)


def test_a_run_is_given_what_the_network_is_to_see(monkeypatch):
    from eval.runs.run import Run

    data = practice.greek().part(60)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((70, 1280)).astype("float32")
    seen = dataclasses.replace(data, x_train=x[:60], x_test=x[60:])
    task = dataclasses.replace(practice.TASKS["tuned_layer"], seen=lambda: seen)
    monkeypatch.setitem(practice.TASKS, "tuned_layer", task)
    result = Run("tuned_layer", "adam", 20, 1e-3, batch_size=20).execute(data)
    # 60 random inputs of 1280 numbers are learned by heart; none of the pictures has been seen.
    assert result["curve"][-1][1] < 1.0 < np.log(29)
    assert result["data"] == data.fingerprint


def test_adapters_are_all_that_is_trained(monkeypatch):
    weights = networks.build("transformer", (32,), 128).get_weights()
    monkeypatch.setattr(practice, "_taught_weights", lambda name: weights)
    model = networks.build(practice.tuned_adapters, (32,), 90)
    trained = [variable.path for variable in model.trainable_variables]
    assert trained and all("lora" in path or path.endswith("bias") for path in trained)
