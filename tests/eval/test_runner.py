"""Training runs, on every backend."""

import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from eval.runs import losses, networks, optimizers, runner
from hrnn_opt.registry import config_from_dict, network_of


def train(data, model=None, optimizer=None, steps=60, seed=0, **kwargs):
    model = model or networks.build("mlp_relu", seed=seed)
    optimizer = optimizer or keras.optimizers.Adam(3e-3)
    result = runner.train(model, optimizer, data, steps=steps, batch_size=64, seed=seed, **kwargs)
    return model, optimizer, result


def mean_loss(model, x, y):
    logits = np.asarray(model.predict(x, verbose=0), "float64")
    logits -= logits.max(-1, keepdims=True)
    return (np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(y)), y]).mean()


def test_it_learns_real_digits_and_reports_full_loss_and_accuracy(digits):
    model, _, result = train(digits, steps=300)
    assert result["final_training_loss"] < 0.15
    assert result["test_accuracy"] > 0.85
    assert not result["diverged"]
    assert [step for step, _ in result["curve"]] == [50, 100, 200, 300]
    assert result["curve"][-1][1] == result["final_training_loss"]
    # The model is left trained, so that what was reported can be measured again.
    assert mean_loss(model, digits.x_train, digits.y_train) == pytest.approx(
        result["final_training_loss"], rel=1e-4)
    correct = model.predict(digits.x_test, verbose=0).argmax(-1) == digits.y_test
    assert correct.mean() == pytest.approx(result["test_accuracy"])


def test_the_same_seed_gives_the_same_numbers(digits):
    first, again = (train(digits, steps=60, seed=3)[2] for _ in range(2))
    assert len(first["curve"]) == 2
    assert first["curve"] == again["curve"]
    assert first["test_accuracy"] == again["test_accuracy"]


def lookahead_optimizer():
    from hrnn_opt import HierarchicalLOpt, HierarchicalRNN, HierarchicalRNNConfig

    network = HierarchicalRNN(HierarchicalRNNConfig(lookahead=True), seed=0)
    return HierarchicalLOpt(network, seed=0, initial_learning_rate=1e-2)


def optimizer_that_reads_the_loss():
    """And the number of steps."""
    network = network_of(config_from_dict(
        {"kind": "celo", "direction": "adam", "units": 2, "step_multiplier": 0.1}))
    return optimizers.build("hrnn", learning_rate=None, schedule="constant", steps=5,
                            weights=network)


@pytest.mark.parametrize("make", [
    lambda: keras.optimizers.Adam(1e-2), lookahead_optimizer, optimizer_that_reads_the_loss])
def test_steps_and_final_values_are_those_of_keras(digits, make):
    model, _, _ = train(digits, optimizer=make(), steps=5)
    reference = networks.build("mlp_relu", seed=0)
    reference.compile(make(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for batch in runner.minibatches(len(digits.y_train), 64, 5, seed=0):
        reference.train_on_batch(digits.x_train[batch], digits.y_train[batch])
    held = reference.get_weights()
    reference.optimizer.finalize_variable_values(reference.trainable_variables)
    # With lookahead the model held another location.
    assert (held[0] == reference.get_weights()[0]).all() == (make is not lookahead_optimizer)
    for ours, keras_own in zip(model.get_weights(), reference.get_weights()):
        np.testing.assert_allclose(ours, keras_own, rtol=1e-4, atol=1e-6)


def test_a_diverging_run_stops_early(digits):
    seen = []
    _, _, result = train(digits, optimizer=keras.optimizers.SGD(1e25), steps=2000,
                         on_progress=seen.append)
    assert result["diverged"]
    assert result["final_training_loss"] is None
    assert result["test_accuracy"] is None
    assert all(math.isfinite(loss) for _, loss in result["curve"])
    assert max(seen, default=0) <= 100


def test_what_is_evaluated_is_what_training_would_end_with(digits):
    optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.99)
    model, _, result = train(digits, optimizer=optimizer)
    # The average lags far behind: without it the loss is 0.5.
    assert result["final_training_loss"] > 0.8
    assert mean_loss(model, digits.x_train, digits.y_train) == pytest.approx(
        result["final_training_loss"], rel=1e-4)


def test_batch_normalisation_is_carried_along(digits):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((28, 28, 1)),
        keras.layers.Flatten(),
        keras.layers.BatchNormalization(momentum=0.9),
        keras.layers.Dense(10),
    ])
    _, _, result = train(digits, model)
    moving_mean = ops.convert_to_numpy(model.layers[1].moving_mean)
    np.testing.assert_allclose(moving_mean, digits.x_train.mean(0).ravel(), atol=0.1)
    assert moving_mean.max() > 0.5
    assert mean_loss(model, digits.x_train, digits.y_train) == pytest.approx(
        result["final_training_loss"], rel=1e-3)
    assert result["final_training_loss"] < 1.5


def test_curves_have_points_at_round_steps():
    assert runner.evaluation_steps(1000) == [50, 100, 200, 500, 1000]
    assert runner.evaluation_steps(4500) == [50, 100, 200, 500, 1000, 2000, 3000, 4000, 4500]
    assert runner.evaluation_steps(7) == [7]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 100), st.integers(0, 2**31))
def test_minibatches_are_drawn_without_replacement(examples, batch_size, steps, seed):
    if batch_size > examples:
        with pytest.raises(ValueError, match="at most"):
            runner.minibatches(examples, batch_size, steps, seed)
        return
    batches = runner.minibatches(examples, batch_size, steps, seed)
    assert batches.shape == (steps, batch_size)
    per_epoch = examples // batch_size
    for start in range(0, steps, per_epoch):
        epoch = batches[start : start + per_epoch].ravel()
        assert len(set(epoch)) == len(epoch)
        assert set(epoch) <= set(range(examples))


def test_epochs_are_shuffled_anew():
    first, second = np.split(runner.minibatches(640, 64, 20, seed=0), 2)
    assert set(first.ravel()) == set(second.ravel()) == set(range(640))
    assert (first != second).any()
    assert (runner.minibatches(640, 64, 20, seed=1) != np.concatenate([first, second])).any()


def test_cosine_decays_to_zero():
    optimizer = optimizers.build("sgd", learning_rate=0.5, schedule="cosine", steps=100)
    rates = [float(optimizer._learning_rate(step)) for step in (0, 50, 100)]
    assert rates == pytest.approx([0.5, 0.25, 0.0], abs=1e-6)
    assert optimizer.momentum == 0.9
    with pytest.raises(ValueError, match="needs a learning rate"):
        optimizers.build("adam", learning_rate=None, schedule="cosine", steps=100)


def on_backend(function, *arrays):
    return ops.convert_to_numpy(function(*map(ops.convert_to_tensor, arrays)))


def test_losses_of_texts_and_of_pixels_are_means_over_positions():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 5, 7)).astype("float32")
    words = rng.integers(7, size=(4, 5)).astype("int32")
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    pixels = rng.random((4, 5, 7)).astype("float32")
    logistic = keras.losses.BinaryCrossentropy(from_logits=True)
    for targets, loss in ((words, cross_entropy), (pixels, logistic)):
        found = on_backend(losses.example_losses, targets, logits)
        assert found.shape == (4,)
        assert found[2] == pytest.approx(float(loss(targets[2:3], logits[2:3])), rel=1e-5)
    right = on_backend(losses.example_accuracies, logits.argmax(-1).astype("int32"), logits)
    np.testing.assert_array_equal(right, np.ones(4))
    half = np.where(np.arange(7) < 3, logits > 0, logits <= 0).astype("float32")
    np.testing.assert_allclose(
        on_backend(losses.example_accuracies, half, logits), 3 / 7, rtol=1e-6)


def test_the_manual_is_a_text_whose_targets_are_the_next_characters():
    from eval.runs import data

    text = data.text(60, 8)
    assert text.x_train.shape == text.y_train.shape == (60, 8)
    assert text.x_test.shape == (10, 8)
    np.testing.assert_array_equal(text.x_train.ravel()[1:], text.y_train.ravel()[:-1])
    assert text.y_train.max() < 128


def test_the_seconds_of_a_step_are_without_compiling_and_evaluations(digits, monkeypatch):
    now = [0.0]

    class Session:
        steps = 0

        def step(self):
            now[0] += 0.5 if self.steps else 100.0
            self.steps += 1

        def loss(self):
            return 1.0

        def evaluate(self, x, y):
            now[0] += 50.0
            return 1.0, 0.5

        def finish(self):
            pass

    monkeypatch.setattr(runner.time, "process_time", lambda: now[0])
    monkeypatch.setattr(runner.sessions, "start", lambda *arguments: Session())
    assert train(digits, steps=350)[2]["step_seconds"] == 0.5
    assert train(digits, steps=1)[2]["step_seconds"] is None
