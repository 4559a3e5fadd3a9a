"""The networks of `small_real`, beside programs that go without their shortcuts."""

import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import numpy as np

import problems
from problems.patch_convnet import convolve, enlarged
from problems.perceptrons import normalized
from problems.sequences import gated_states

GENERATOR = np.random.default_rng(0)


def normal(*shape):
    return GENERATOR.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("side", "kernel", "stride"), [(8, 3, 1), (8, 3, 2), (7, 3, 2), (8, 4, 4), (9, 4, 4)])
def test_products_of_patches_are_the_convolution(side, kernel, stride):
    images, bank = normal(2, side, side, 3), normal(kernel, kernel, 3, 4)
    expected = jax.lax.conv_general_dilated(
        images, bank, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(convolve(images, bank, stride), expected, rtol=1e-4, atol=1e-4)


def test_enlarged_pictures_repeat_each_pixel():
    images = normal(2, 3, 3, 2)
    np.testing.assert_array_equal(enlarged(images), images.repeat(2, axis=1).repeat(2, axis=2))


def test_normalisation():
    x, gain, shift = normal(5, 7), normal(7), normal(7)
    expected = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) * gain + shift
    np.testing.assert_allclose(normalized(x, gain, shift), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_second_derivatives_are_finite_where_there_is_no_variance(norm):
    """As of a black picture, or of a batch of one sample many times."""
    net = problems.PatchConvNet(4, 2, ((2, 2, 3),), norm=norm, samples=4, init="glorot")
    shapes = [jnp.asarray(normal(*shape)) for shape in net.shapes]
    labels = jnp.array([0, 1, 1, 0])

    def bend(data):
        def slope(parameters):
            return jax.grad(net.loss)(parameters, data, labels, {"l2": 0.0})

        return jax.jvp(slope, (tuple(shapes),), (tuple(shapes),))

    data = jnp.stack([jnp.zeros((4, 16)), jnp.broadcast_to(normal(16), (4, 16))])
    found = jax.jit(jax.vmap(bend))(data)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_batch_normalisation_ignores_the_scale_of_its_bank():
    net = problems.PatchConvNet(4, 2, ((2, 2, 3),), norm="batch", samples=4)
    parameters = [normal(*shape) for shape in net.shapes]
    data = normal(6, 16)
    before = net.logits(parameters, data)
    parameters[0] = 10 * parameters[0]
    np.testing.assert_allclose(net.logits(parameters, data), before, rtol=1e-3, atol=1e-3)


def test_gated_states_of_one_unit_by_hand():
    inputs, recurrent = normal(1, 3, 3), normal(1, 3)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    state, expected = 0.0, []
    for x in inputs[0]:
        reset, keep = sigmoid(x[:2] + state * recurrent[0, :2])
        candidate = np.tanh(x[2] + reset * state * recurrent[0, 2])
        state = keep * state + (1 - keep) * candidate
        expected.append(state)
    np.testing.assert_allclose(
        gated_states(inputs, recurrent)[:, 0, 0], expected, rtol=1e-5, atol=1e-6)


def test_attention_of_one_picture_by_hand():
    net = problems.PatchTransformer(4, 2, 3, 4, heads=2, samples=4)
    parameters = [normal(*shape) / 2 for shape in net.shapes]
    picture = normal(4, 4)
    seen = net.logits(parameters, picture.reshape(1, 16))[0]

    def layer(x, gain, shift):
        centred = x - x.mean(1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5) * gain + shift

    (embed, bias, places, g1, s1, qkv, output, g2, s2, up, up_bias, down, down_bias, g3, s3,
     readout, readout_bias) = parameters
    cut = [picture[i : i + 2, j : j + 2].ravel() for i in (0, 2) for j in (0, 2)]
    x = np.stack(cut) @ embed + bias + places
    query, key, value = np.split(layer(x, g1, s1) @ qkv, 3, axis=1)
    mixed = []
    for head in (slice(0, 2), slice(2, 4)):
        weights = np.exp(query[:, head] @ key[:, head].T / 2**0.5)
        mixed.append(weights / weights.sum(1, keepdims=True) @ value[:, head])
    x = x + np.concatenate(mixed, axis=1) @ output
    x = x + np.maximum(layer(x, g2, s2) @ up + up_bias, 0) @ down + down_bias
    expected = layer(x, g3, s3).mean(0) @ readout + readout_bias
    np.testing.assert_allclose(seen, expected, rtol=1e-3, atol=1e-4)


BAD = [
    ("PatchConvNet(8, 10, ())", "layers must be"),
    ("PatchConvNet(8, 10, ((3, 1, 8),), norm='group')", "norm must be one of none, layer, batch"),
    ("PatchConvNet(8, 11, ((3, 1, 8),))", "Pictures: classes must be 1 to 10; got 11"),
    ("PatchTransformer(8, 3, 10, 16)", "patch must be a divisor of side=8; got 3"),
    ("PatchTransformer(8, 2, 10, 16, heads=3)", "heads must be a divisor of width=16"),
    ("ConvAutoencoder(6, (4, 4))", "side must be a multiple of 4; got 6"),
    ("RowReader(0, 10, 16)", "side must be an integer of at least 1"),
    ("NormalizedPerceptron(50, 10, (8,))", "Pictures: features must be a square number; got 50"),
    ("Regressor(8, (0,))", "hidden must be"),
    ("RecurrentLanguageModel(33, 8, 16, data=Text())", "Text: classes must be 2 to 32; got 33"),
    ("NormalizedPerceptron(8, 11, (8,), data=Tables())", "Tables: classes must be at most 10"),
    ("Pictures(digits=-1.0)", "digits must be at least 0"),
    ("Pictures(digits=0.0, letters=0.0, photographs=0.0)", "digits must be positive, or letters"),
    ("Pictures(projected=1.5)", "projected must be a probability"),
    ("Pictures(noise=-0.1)", "noise must be at least 0"),
    ("HeldOutPictures(digits=1.0)", "digits must be 0"),
    ("Mixer(7, 6, 16)", "features must be even"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_bad_specs_have_one_clear_error(text, message):
    with pytest.raises(ValueError, match=message):
        problems.parse(text)
