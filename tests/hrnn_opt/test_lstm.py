import keras
import numpy as np
import pytest
from keras import ops

from hrnn_opt import CoordinatewiseLSTM, CoordinatewiseLSTMConfig, Layout, LearnedOpt, Seen
from hrnn_opt.files.weights import Pretrained


def trained(**sizes):
    """A network whose read-out is not the start's zero."""
    network = CoordinatewiseLSTM(CoordinatewiseLSTMConfig(**sizes), seed=1)
    rng = np.random.default_rng(0)
    network.read_out.assign(rng.normal(size=network.read_out.shape))
    network.read_out_bias.assign([0.3])
    return network


def keras_updates(network, gradients):
    """(T, N) updates for (T, N) gradients by Keras's own LSTM layers, as the paper writes them."""
    p, units = network.config.log_range, network.config.units
    large = np.abs(gradients) >= np.exp(-p)
    with np.errstate(divide="ignore"):
        x = np.stack([np.where(large, np.log(np.abs(gradients)) / p, -1.0),
                      np.where(large, np.sign(gradients), np.exp(p) * gradients)], -1)
    x = np.moveaxis(x, 0, 1)
    # Keras has the proposal before the output gate.
    order = np.arange(4 * units).reshape(4, units)[[0, 1, 3, 2]].ravel()
    for kernel, bias in network.lstms:
        cell = keras.layers.LSTM(units, return_sequences=True)
        cell.build(x.shape)
        kernel, bias = (ops.convert_to_numpy(v)[..., order] for v in (kernel, bias))
        cell.set_weights([kernel[:-units], kernel[-units:], bias])
        x = ops.convert_to_numpy(cell(x.astype("float32")))
    weights, bias = (ops.convert_to_numpy(v) for v in (network.read_out, network.read_out_bias))
    return network.config.output_scale * np.moveaxis(x @ weights + bias, 1, 0)[..., 0]


def test_the_optimizer_is_keras_lstm_layers_on_preprocessed_gradients():
    rng = np.random.default_rng(0)
    gradients = (rng.normal(size=(4, 6)) * 10.0 ** rng.uniform(-8, 3, (4, 6))).astype("float32")
    network = trained()
    variables = [keras.Variable(np.ones((2, 2), "float32")), keras.Variable([5.0, 6.0])]
    optimizer = LearnedOpt(network, learning_rate=1.0)
    for gradient in gradients:
        optimizer.apply(
            [ops.reshape(ops.convert_to_tensor(gradient[:4]), (2, 2)),
             ops.convert_to_tensor(gradient[4:])], variables)
    moved = np.concatenate([np.ravel(ops.convert_to_numpy(v)) for v in variables])
    expected = np.array([1, 1, 1, 1, 5, 6]) + keras_updates(network, gradients).sum(0)
    np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-5)


def test_a_tensor_without_a_gradient_stays(tmp_path):
    network = trained(units=3)
    layout = Layout([(2,), (3,)])
    state = network.init_state(layout)
    gradient = layout.flatten([ops.ones((2,)), ops.ones((3,))])
    new, step = network.step(layout, state, Seen(gradient), np.array([True, False]))
    first, second = layout.unflatten(step.update)
    assert np.abs(ops.convert_to_numpy(first)).min() > 0
    assert np.abs(ops.convert_to_numpy(second)).max() == 0
    hidden = layout.unflatten(new["hidden"])
    assert np.abs(ops.convert_to_numpy(hidden[0])).max() > 0
    assert np.abs(ops.convert_to_numpy(hidden[1])).max() == 0


def test_weights_files_say_which_network_they_are_of(tmp_path):
    path = tmp_path / "lstm.safetensors"
    network = trained(units=5)
    Pretrained.from_network(network, learning_rate=1.0).save(path)
    optimizer = LearnedOpt(str(path))
    assert optimizer.network_config == network.network_config
    again = LearnedOpt.from_config(optimizer.get_config())
    again.build([keras.Variable([1.0])])
    for name, value in network.meta_parameters.items():
        np.testing.assert_array_equal(
            ops.convert_to_numpy(again.meta_parameters[name]), ops.convert_to_numpy(value))


def test_what_is_not_allowed_is_named():
    with pytest.raises(ValueError, match=r"`units` must be .* got 0"):
        CoordinatewiseLSTMConfig(units=0)
    with pytest.raises(ValueError, match=r"`output_scale` must be .* got -1"):
        CoordinatewiseLSTMConfig(output_scale=-1)
    with pytest.raises(ValueError, match="coordinatewise_lstm"):
        CoordinatewiseLSTMConfig.from_dict({"width": 3})
    with pytest.raises(ValueError, match="keep no log learning"):
        LearnedOpt(trained(), initial_learning_rate=1e-3)
