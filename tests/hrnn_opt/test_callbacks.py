import keras
import numpy as np
import pytest

from hrnn_opt import HierarchicalLOpt, SwapLookahead
from tests.hrnn_opt.support import (
    assert_close,
    assert_equal,
    data,
    fit,
    model,
    optimizer,
    values,
)


class Watch(keras.callbacks.Callback):
    """Notes what the model's variables hold, and the true parameters, at points of a run."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def note(self, when):
        opt = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        self.seen.setdefault(when, []).append(
            (values(self.model.trainable_weights), values(opt.true_parameters())))

    def on_test_batch_begin(self, batch, logs=None):
        self.note("test")

    def on_epoch_end(self, epoch, logs=None):
        self.note("epoch end")

    def on_epoch_begin(self, epoch, logs=None):
        self.note("epoch begin")

    def on_train_end(self, logs=None):
        self.note("end")


def same(pair) -> bool:
    return all(map(np.array_equal, *pair))


def run(network, callbacks, epochs=3):
    watch = Watch()
    fit(network, epochs=epochs, validation_data=data(seed=1), validation_batch_size=32,
        callbacks=[*callbacks, watch])
    return watch.seen


def test_evaluation_sees_the_true_parameters_and_training_is_not_changed():
    plain, swapped = (model(optimizer=optimizer(lookahead=True)) for _ in range(2))
    without, with_swap = run(plain, []), run(swapped, [SwapLookahead()])
    # Without it evaluation sees the attended location.
    assert not any(map(same, without["test"])) and all(map(same, with_swap["test"]))
    # What callbacks find after evaluation is what it has seen; then training goes on as it did.
    assert all(map(same, with_swap["epoch end"]))
    assert not any(map(same, with_swap["epoch begin"][1:]))
    assert_close(
        [a for pair in with_swap["epoch begin"] for a in pair[0]],
        [a for pair in without["epoch begin"] for a in pair[0]], 1e-6)
    # Both end with the true parameters in the model, at the end's callbacks already.
    for seen, network in ((without, plain), (with_swap, swapped)):
        assert same(seen["end"][0])
        true = values(network.optimizer.true_parameters())
        assert same((values(network.trainable_weights), true))
    assert_close(values(swapped.trainable_weights), values(plain.trainable_weights), 1e-6)


def test_swap_on_epoch_is_for_the_callbacks_after_it(tmp_path):
    network = model(optimizer=optimizer(lookahead=True))
    path = str(tmp_path / "{epoch}.keras")
    seen = run(network, [
        SwapLookahead(swap_on_epoch=True), keras.callbacks.ModelCheckpoint(path)])
    assert all(map(same, seen["epoch end"])) and all(map(same, seen["test"]))
    # Back again for training.
    assert not any(map(same, seen["epoch begin"][1:]))
    assert same(seen["end"][0])
    plain = model(optimizer=optimizer(lookahead=True))
    run(plain, [])
    assert_close(values(network.trainable_weights), values(plain.trainable_weights), 1e-6)
    for epoch, (held, true) in enumerate(seen["epoch end"], 1):
        saved = keras.saving.load_model(tmp_path / f"{epoch}.keras")
        assert_equal(values(saved.trainable_weights), true)
        assert_equal(values(saved.optimizer.true_parameters()), true)
        assert_equal(held, true)


def test_early_stopping_restores_true_parameters():
    network, watch = model(optimizer=optimizer(lookahead=True)), Watch()
    losses = fit(network, epochs=4, callbacks=[
        SwapLookahead(swap_on_epoch=True), watch, keras.callbacks.EarlyStopping(
            monitor="loss", mode="max", patience=9, restore_best_weights=True)])["loss"]
    assert np.argmax(losses) < 3
    best = watch.seen["epoch end"][np.argmax(losses)][1]
    assert_equal(values(network.trainable_weights), best)
    assert_equal(values(network.optimizer.true_parameters()), best)


@pytest.mark.parametrize("swap", [
    SwapLookahead, keras.callbacks.SwapEMAWeights,
    lambda: keras.callbacks.SwapEMAWeights(swap_on_epoch=True)], ids=["true", "ema", "ema, epoch"])
def test_with_a_moving_average(swap):
    def average(network):
        return values(network.optimizer._model_variables_moving_average)

    plain, swapped = (
        model(optimizer=optimizer(lookahead=True, use_ema=True, ema_momentum=0.8))
        for _ in range(2))
    fit(plain, epochs=2)
    run(swapped, [swap()], epochs=2)
    # The run ends with the average in the model, whatever was evaluated meanwhile.
    assert_close(values(plain.trainable_weights), average(plain), 1e-6)
    assert_close(values(swapped.trainable_weights), values(plain.trainable_weights), 1e-5)
    assert_equal(values(swapped.optimizer.true_parameters()), values(swapped.trainable_weights))


def test_inside_a_loss_scale_optimizer():
    network = model(
        optimizer=keras.optimizers.LossScaleOptimizer(optimizer(lookahead=True)))
    seen = run(network, [SwapLookahead()], epochs=1)
    assert same(seen["test"][0]) and same(seen["end"][0]) and same(seen["epoch end"][0])


class Fails(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.armed = True

    def on_test_batch_begin(self, batch, logs=None):
        if self.armed:
            raise RuntimeError("out of power")


def test_an_error_inside_evaluation_does_no_harm():
    network, swap, fails = model(optimizer=optimizer(lookahead=True)), SwapLookahead(), Fails()
    with pytest.raises(RuntimeError, match="out of power"):
        fit(network, validation_data=data(seed=1), callbacks=[swap, fails])
    held, true = values(network.trainable_weights), values(network.optimizer.true_parameters())
    assert_equal(held, true)
    # The same callbacks serve another run, in which nothing of the first comes back.
    fails.armed = False
    assert all(map(same, run(network, [swap, fails], epochs=2)["test"]))
    end = values(network.trainable_weights)
    assert_equal(values(network.optimizer.true_parameters()), end)
    x, y = data()
    network.evaluate(x, y, verbose=0, callbacks=[swap])
    network.predict(x, verbose=0, callbacks=[swap])
    assert_equal(values(network.trainable_weights), end)


def test_predict_during_training_sees_the_true_parameters():
    class Predicts(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            before = values(self.model.trainable_weights)
            self.outputs = self.model.predict(data()[0], verbose=0, callbacks=[SwapLookahead()])
            assert_equal(values(self.model.trainable_weights), before)
            self.true = values(self.model.optimizer.true_parameters())

    network, predicts = model(optimizer=optimizer(lookahead=True)), Predicts()
    fit(network, callbacks=[predicts])
    other = model()
    other.set_weights(predicts.true)
    np.testing.assert_allclose(
        predicts.outputs, other.predict(data()[0], verbose=0), rtol=1e-5, atol=1e-6)


def test_another_optimizer_is_refused():
    with pytest.raises(ValueError, match="`SwapLookahead` needs a model compiled with"):
        fit(model(optimizer=keras.optimizers.SGD()), validation_data=data(),
            callbacks=[SwapLookahead()])


@pytest.mark.parametrize("weights", ["untrained", "default"])
def test_without_lookahead_there_is_nothing_to_swap(weights):
    ends = []
    for callbacks in ([], [SwapLookahead(swap_on_epoch=True)]):
        network = model(optimizer=HierarchicalLOpt(weights, seed=0))
        seen = run(network, callbacks)
        assert all(same(pair) for pairs in seen.values() for pair in pairs)
        ends.append(values(network.trainable_weights))
    assert_equal(*ends)


# What is shown, saved and restored is one thing, wherever the callback stands.

@pytest.mark.parametrize("place", ["none", "before", "after"])
@pytest.mark.parametrize("form", ["averaging", "lookahead"])
def test_the_best_is_what_comes_back(form, place, tmp_path):
    if (form, place) == ("lookahead", "none"):
        pytest.skip("with lookahead, evaluation sees the parameters through the callback")

    def new():
        if form == "lookahead":
            return optimizer(lookahead=True, learning_rate=3.0)
        return HierarchicalLOpt(seed=0, learning_rate=0.1)

    u, v = data(seed=1)
    network, path = model(optimizer=new()), tmp_path / "best.keras"
    watch = [keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True),
             keras.callbacks.ModelCheckpoint(path, save_best_only=True)]
    callbacks = {"none": watch, "before": [SwapLookahead(), *watch],
                 "after": [*watch, SwapLookahead()]}[place]
    shown = fit(network, epochs=12, validation_data=(u, v), callbacks=callbacks)["val_loss"]
    for best in (network, keras.saving.load_model(path)):
        assert best.evaluate(u, v, verbose=0) == pytest.approx(min(shown), rel=1e-5)
