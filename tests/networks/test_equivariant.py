"""What the equivariant network's form promises, whatever its numbers are."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from keras import ops

from hrnn_opt import EquivariantRNN, EquivariantRNNConfig, Layout, Seen

SHAPES = ((5, 3), (7,), (1,))
COUNT = sum(int(np.prod(shape)) for shape in SHAPES)
STEPS = 4


def learned(seed, **switches):
    """A network whose every number differs from the start's."""
    network = EquivariantRNN(EquivariantRNNConfig(
        parameter_units=4, tensor_units=5, **switches), seed=seed)
    rng = np.random.default_rng(seed)
    for variable in network.meta_parameters.values():
        variable.assign(ops.convert_to_numpy(variable) + rng.normal(0, 0.4, variable.shape))
    return network


def split(flat):
    ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(flat, ends), SHAPES)]


def updates(network, gradients, progress=None):
    """(steps, COUNT) of the gradients, (steps, COUNT)."""
    layout, taken = Layout(SHAPES), []
    state = network.init_state(layout)
    for gradient in gradients:
        flat = layout.flatten([ops.convert_to_tensor(g) for g in split(gradient)])
        state, step = network.step(layout, state, Seen(flat, progress=progress))
        taken.append(np.concatenate(
            [ops.convert_to_numpy(u).ravel() for u in layout.unflatten(step.update)]))
    return np.array(taken)


@pytest.fixture(scope="module")
def networks():
    return [learned(0), learned(1, gates_read_inputs=True), learned(2, gates_read_run=True)]


def drawn(seed, exponent):
    normal = np.random.default_rng(seed).normal(size=(STEPS, COUNT))
    return (10.0**exponent * normal).astype("float32")


cases = hypothesis.given(
    which=strategies.integers(0, 2), seed=strategies.integers(0, 10**6),
    exponent=strategies.integers(-6, 6))
few = hypothesis.settings(max_examples=8)


@few
@cases
def test_a_gradient_of_the_other_sign_gives_the_other_step(networks, which, seed, exponent):
    gradients = drawn(seed, exponent)
    ours, theirs = (updates(networks[which], sign * gradients) for sign in (1, -1))
    assert np.abs(ours).max() > 1e-3
    np.testing.assert_allclose(ours, -theirs, rtol=1e-5, atol=1e-6)


@few
@cases
def test_an_entry_without_gradient_has_no_step(networks, which, seed, exponent):
    gradients = drawn(seed, exponent)
    gradients[:, ::3] = 0.0
    taken = updates(networks[which], gradients)
    assert np.all(taken[:, ::3] == 0.0)
    assert np.all(taken[:, 1::3] != 0.0)


@few
@cases
def test_entries_of_a_tensor_in_another_order_give_steps_in_that_order(
        networks, which, seed, exponent):
    gradients = drawn(seed, exponent)
    rng, order, start = np.random.default_rng(seed), [], 0
    for shape in SHAPES:
        count = int(np.prod(shape))
        order.append(start + rng.permutation(count))
        start += count
    order = np.concatenate(order)
    ours, theirs = (updates(networks[which], g) for g in (gradients, gradients[:, order]))
    np.testing.assert_allclose(theirs, ours[:, order], rtol=2e-4, atol=2e-5)


def test_a_share_of_training_below_zero_is_not_known(networks):
    gradients = drawn(0, 0)
    unknown = updates(networks[0], gradients)
    for value, same in ((-1.0, True), (0.0, False), (0.5, False)):
        told = updates(networks[0], gradients, ops.convert_to_tensor(np.float32(value)))
        assert np.allclose(told, unknown, rtol=1e-6, atol=1e-7) == same


def test_where_it_starts_the_network_decides_nothing():
    """Its read-outs are 0 then, so that recurrent weights of another seed change nothing."""
    gradients = drawn(1, 0)
    reading = EquivariantRNNConfig(gates_read_inputs=True, gates_read_run=True)
    ours, *others = (updates(EquivariantRNN(config, seed=seed), gradients)
                     for config, seed in ((None, 0), (None, 1), (reading, 0)))
    for theirs in others:
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_gates_that_read_inputs_weigh_by_what_is_clipped():
    """By U alone: the newest average's weight is 1 + U . clip(x), with one time scale heard."""
    gradients = drawn(4, 0)
    network, plain = (
        EquivariantRNN(EquivariantRNNConfig(gates_read_inputs=reads)) for reads in (True, False))
    inputs = np.zeros((6, 3), "float32")
    # log(v / V) / 4, of which no entry here is out of bounds.
    inputs[5, 0] = 0.1
    network.input_gates.assign(inputs)
    ours, theirs = updates(network, gradients)[0], updates(plain, gradients)[0]
    ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES])[:-1]
    squares = np.concatenate([np.full(part.size, np.mean(part**2))
                              for part in np.split(gradients[0], ends)])
    share = gradients[0]**2 / squares
    np.testing.assert_allclose(
        ours, theirs * (1 + 0.1 * np.clip(0.25 * np.log(share + 1e-8), -2, 2)), rtol=1e-4)


def test_gates_that_read_the_run_change_with_how_far_gradients_have_fallen():
    """By A and B alone, of the newest average: the third gradient is e^-8 times as large as the
    largest, and the second's V is of that one as good as all."""
    gradients = drawn(5, 0)[:3] * np.exp(np.array([[-4.0], [0.0], [-8.0]], "float32"))
    network, plain = (
        EquivariantRNN(EquivariantRNNConfig(gates_read_run=reads)) for reads in (True, False))
    falls = np.zeros((3, 3), "float32")
    falls[1, 0] = 0.3
    theirs = updates(plain, gradients)
    squares = np.cumsum(np.square(gradients), axis=0) / np.arange(1, 4)[:, None]
    ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES])[:-1]
    of_tensor = np.concatenate([
        np.broadcast_to(part.mean(1, keepdims=True), part.shape)
        for part in np.split(squares, ends, axis=1)], axis=1)
    fall = 0.125 * np.log(of_tensor / np.maximum.accumulate(of_tensor))
    share = 0.25 * np.log(squares / of_tensor + 1e-8)
    for name, factor in (("run_shortcut", 1.0), ("run_share_gates", share)):
        weights = getattr(network, name)
        weights.assign(falls)
        ours = updates(network, gradients)
        np.testing.assert_allclose(ours, theirs * (1 + 0.3 * fall * factor), rtol=1e-4)
        assert np.all(np.abs(fall[2]) > 0.01) and np.all(fall[:2] == 0)
        weights.assign(np.zeros((3, 3), "float32"))


@pytest.mark.parametrize("sign", [1, -1])
def test_where_all_averages_agree_steps_lead_downhill(sign):
    """However large the gates are, and of whatever sign."""
    gradients = np.repeat(drawn(2, 0)[:1], STEPS, axis=0)
    network = learned(3, gates_read_inputs=True, gates_read_run=True)
    for gates in (network.gates, network.input_gates, network.run_shortcut,
                  network.run_share_gates):
        gates.assign(sign * 20.0 * np.asarray(ops.convert_to_numpy(gates)))
    assert np.all(updates(network, gradients) * np.sign(gradients) > 0.0)
