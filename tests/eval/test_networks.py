import functools

import numpy as np
import pytest

from eval.runs import networks

build = functools.cache(networks.build)


@pytest.mark.parametrize("name, parameters", [
    ("mlp_sigmoid", 50_890), ("mlp_relu", 50_890), ("conv_sigmoid", 64_402), ("conv_relu", 64_402)])
def test_the_papers_networks_have_the_papers_size(name, parameters):
    model = build(name)
    assert model.count_params() == parameters
    assert model.output_shape == (None, 10)


def test_mlps_start_by_first_dimension():
    deviations = [weights.std() for weights in build("mlp_relu").get_weights()]
    assert deviations[0] == pytest.approx(1.2 / 28, rel=0.02)
    assert deviations[1] == pytest.approx(1.2 / 8, rel=0.35)
    assert deviations[2] == pytest.approx(1.2 / 8, rel=0.12)
    assert deviations[3] == pytest.approx(1.2 / 10**0.5, rel=0.7)


def test_convnets_start_small_without_convolution_biases():
    weights = build("conv_relu").get_weights()
    assert [w.shape for w in weights] == [(3, 3, 1, 8), (5, 5, 8, 8), (6272, 10), (10,)]
    for w in weights[1:3]:
        assert w.std() == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("name", ["mlp_relu", "conv_relu"])
def test_the_seed_decides_the_start(name):
    first, again, other = (networks.build(name, (8, 8, 1), seed=seed) for seed in (1, 1, 2))
    for a, b in zip(first.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(first.get_weights(), other.get_weights()))
    assert first.output_shape == (None, 10)


def test_activations_are_those_in_the_name():
    for name in networks.PAPER:
        model = build(name)
        hidden = [layer for layer in model.layers if layer.weights][:-1]
        assert {layer.activation.__name__ for layer in hidden} == {name.split("_")[1]}


def test_the_language_model_sees_no_later_character():
    model = networks.build("transformer", (6,), 11)
    text = np.array([[1, 2, 3, 4, 5, 6]])
    other = np.array([[1, 2, 3, 4, 9, 6]])
    before, after = (np.asarray(model(x)) for x in (text, other))
    assert before.shape == (1, 6, 11)
    np.testing.assert_allclose(before[:, :4], after[:, :4], rtol=1e-5, atol=1e-6)
    assert np.abs(before[:, 4:] - after[:, 4:]).max() > 1e-3
    # Characters and places have an embedding each.
    assert sum("embeddings" in variable.name for variable in model.trainable_variables) == 2


def test_the_autoencoder_gives_logits_of_its_input():
    model = networks.build("autoencoder", (8, 8, 1), 2)
    assert model(np.zeros((3, 8, 8, 1), "float32")).shape == (3, 8, 8, 1)
