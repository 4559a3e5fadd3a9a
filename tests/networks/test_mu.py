"""Steps by the width of layers: which tensor is what, and what its steps are multiplied by."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from hrnn_opt import Layout, LearnedOpt, Mu, Seen, SmallFC
from hrnn_opt.networks import Direction


def multipliers(model, **options):
    opt = LearnedOpt(Mu(Direction(), **options))
    opt.build(model.trainable_variables)
    found = Mu(Direction(), **options).multipliers_of(opt._layout)
    return {
        variable.path: float(mu)
        for variable, mu in zip(model.trainable_variables, found)}


def test_hidden_layers_are_divided_by_their_inputs():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(16, name="first"), layers.Dense(
        8, name="hidden"), layers.Dense(3, name="last")])
    by_name = {
        "first/kernel": 1.0, "first/bias": 1.0, "hidden/kernel": 1 / 16, "hidden/bias": 1.0,
        "last/kernel": 1 / 8, "last/bias": 1.0}
    found = {"/".join(name.split("/")[-2:]): mu for name, mu in multipliers(model).items()}
    assert found == by_name
    found = {"/".join(name.split("/")[-2:]): mu
             for name, mu in multipliers(model, base_fan_in=4, scale_output=False).items()}
    assert found == {**by_name, "hidden/kernel": 1 / 4, "last/kernel": 1.0}


def test_embeddings_convolutions_and_attention():
    tokens = keras.Input((4,), dtype="int32")
    x = layers.Embedding(11, 6)(tokens)
    x = layers.MultiHeadAttention(2, 5, name="attention")(x, x)
    x = layers.Conv1D(7, 3)(x)
    x = layers.Dense(2)(layers.LayerNormalization()(x))
    found = multipliers(keras.Model(tokens, x))

    def of(*parts):
        return [mu for name, mu in found.items() if all(part in name for part in parts)]

    assert set(of("embed")) == set(of("bias")) == set(of("gamma")) == {1.0}
    assert of("query/kernel") == of("key/kernel") == of("value/kernel") == [np.float32(1 / 6)]
    assert of("attention_output/kernel") == [np.float32(1 / 10)]
    assert of("conv1d", "kernel") == [np.float32(1 / 6)]
    assert of("dense", "kernel") == [np.float32(1 / 7)]


def test_the_step_is_multiplied_and_nothing_else():
    layout = Layout([(4, 3), (3, 2), (2, 5)])
    gradient = layout.flatten([np.ones(shape, "float32") for shape in layout.shapes])
    network = SmallFC()
    seen = Seen(gradient, 0.5 * gradient)
    _, plain = network.step(layout, network.init_state(layout), seen)
    rule = Mu(network)
    _, step = rule.step(layout, rule.init_state(layout), seen)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(step.update), ops.convert_to_numpy(plain.update))
    np.testing.assert_allclose(ops.convert_to_numpy(step.size), [1.0, 1 / 3, 1 / 2])


@pytest.mark.parametrize("options, message", [
    ({"base_fan_in": 0}, "`base_fan_in` must be a positive number, got 0"),
    ({"clip_norm": -1.0}, "`clip_norm` must be a number of at least 0, got -1.0"),
    ({"scale_output": 1}, "`scale_output` must be True or False, got 1"),
    ({"multipliers": (1.0, -1.0)}, "`multipliers` must be at most")])
def test_switches_that_are_not_allowed_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Mu(Direction(), **options)


def test_multipliers_must_be_as_many_as_tensors():
    with pytest.raises(ValueError, match="one for each of the 2 tensors, got 1"):
        Mu(Direction(), multipliers=(1.0,)).multipliers_of(Layout([(2, 2), (2,)]))
