"""The LSTM of VeLO and Celo, which reads where in its training a model is.

See `losses.py` for the source. Dimension letters are those of `interface.py`; H units.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from keras import ops

from hrnn_opt.interface import LearnedOptimizer, Seen, State
from hrnn_opt.networks import losses, moments, released
from hrnn_opt.networks.functions import affine
from hrnn_opt.networks.reading import Reading
from hrnn_opt.places.layout import Layout

# Shares of the training around which tanh(10 (t / N - share)) rises.
_SHARES = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)
INPUTS = len(_SHARES) + losses.INPUTS
# Keeps most of the cell at the start.
_FORGET_BIAS = 1.0
LARGEST_GRADIENT = 1000.0
# Their names of what is not used, and of what is.
UNUSED = ("rnn_params/linear/w", "rnn_params/linear/b")
NAMES = {
    "start_hidden": "lstm_init_state/hidden", "start_cell": "lstm_init_state/cell",
    "across_kernel": "rnn_params/linear_1/w", "across_bias": "rnn_params/linear_1/b",
    "own_kernel": "rnn_params/linear_2/w", "own_bias": "rnn_params/linear_2/b",
    "lstm_kernel": "rnn_params/rnn/linear/w", "lstm_bias": "rnn_params/rnn/linear/b",
    "rate_kernel": "rnn_params/step_size/w", "rate_bias": "rnn_params/step_size/b",
}


class LSTM:
    """The layers of the LSTM, as weights of a network.

    Args:
        network: to which they belong.
        inputs, units: sizes.
        rng: of kernels' start values.
    """

    def __init__(
        self, network: LearnedOptimizer, inputs: int, units: int, rng: np.random.Generator
    ) -> None:
        def kernel(shape, dtype=None):
            del dtype
            return moments.truncated_normal(rng, shape, shape[0])

        def weight(name, shape, initializer="zeros"):
            return network.add_weight(name=name, shape=shape, initializer=initializer)

        self.start = weight("start_hidden", (units,)), weight("start_cell", (units,))
        layers = {"across": (inputs, units), "own": (inputs, units),
                  "lstm": (2 * units, 4 * units), "rate": (units, 1)}
        self.layers = {
            name: (weight(f"{name}_kernel", shape, kernel), weight(f"{name}_bias", shape[1:]))
            for name, shape in layers.items()}
        self.units = units

    def begin(self, state: State) -> State:
        """The start vectors, over all that a state of zeros has them for."""
        return {
            name: state[name] + ops.reshape(vector, (-1,) + (1,) * (len(state[name].shape) - 1))
            for name, vector in zip(("lstm_hidden", "lstm_cell"), self.start)}

    def affine(self, name: str, x: Any) -> Any:
        """What the layer of this name makes of (n, ...)."""
        kernel, bias = self.layers[name]
        return affine(kernel, x, bias)

    def advance(self, x: Any, across: Any, state: State) -> State:
        """(H, ...) the new state.

        Args:
            x: (inputs, ...).
            across: (H, ...) the most that any tensor's inputs say, or what is broadcast to it.
            state: with the old one.
        """
        u = self.units
        hidden, cell = (ops.cast(state[f"lstm_{name}"], "float32") for name in ("hidden", "cell"))
        x = self.affine("own", x) + across
        gates = self.affine("lstm", ops.concatenate([x, hidden]))
        enter, proposed, keep, leave = (gates[i * u : (i + 1) * u] for i in range(4))
        cell = ops.sigmoid(keep + _FORGET_BIAS) * cell + ops.sigmoid(enter) * ops.tanh(proposed)
        return {"lstm_hidden": ops.sigmoid(leave) * ops.tanh(cell), "lstm_cell": cell}

    def described_rate(self, state: Mapping[str, np.ndarray]) -> float:
        """What the layer of the rate makes of the hidden state of one tensor, or of the model."""
        kernel, bias = (
            ops.convert_to_numpy(ops.convert_to_tensor(x)) for x in self.layers["rate"])
        return float((np.ravel(state["lstm_hidden"]) @ kernel + bias)[0])


def of_model(state: State, seen: Seen, decay: Any) -> Any:
    """(18, ...) what is read of the time and the loss.

    Args:
        state: of `losses.FIELDS` after this step's loss, with the number of steps before it.
        seen: with the horizon.
        decay: (10, ...) of the averages of the loss.
    """
    done = ops.expand_dims(state["model_steps"] / seen.horizon, 0)
    shares = np.array(_SHARES, "float32").reshape(-1, *[1] * (len(done.shape) - 1))
    of_time = ops.tanh(10.0 * (done - ops.convert_to_tensor(shares)))
    return ops.concatenate([of_time, losses.read(state, decay)])


def penalized(layout: Layout, seen: Seen, weight: float) -> Seen:
    """With an L2 penalty, as the authors' wrapper adds it: weight times the parameters to the
    gradient, and weight times the sum of their squares, not half of it, to the loss."""
    if not weight:
        return seen
    squares = layout.tensor_mean(ops.expand_dims(ops.square(seen.parameters), 0))[0]
    sizes = ops.convert_to_tensor(layout.sizes.astype("float32"))
    return seen._replace(
        gradient=seen.gradient + weight * seen.parameters,
        loss=seen.loss + weight * ops.sum(squares * sizes, axis=-1))


def looked_at(layout: Layout, seen: Seen, weight: float) -> Seen:
    """What is seen as far as it is looked at: penalized, and then with clipped gradients."""
    seen = penalized(layout, seen, weight)
    return seen._replace(
        gradient=ops.clip(seen.gradient, -LARGEST_GRADIENT, LARGEST_GRADIENT))


def root_mean_square(layout: Layout, parameters: Any) -> Any:
    """(..., K) of each tensor, never 0."""
    return ops.sqrt(mean_square(layout, parameters) + 1e-9)


def mean_square(layout: Layout, x: Any) -> Any:
    """(..., K) the mean square of (..., B, L) over each tensor."""
    x = ops.clip(x, -moments.LARGEST_INPUT, moments.LARGEST_INPUT)
    return layout.tensor_mean(ops.expand_dims(ops.square(x), 0))[0]


def _read(gradient: Any, parameters: Any, parts: moments.Parts) -> list[Any]:
    p, gradient = parts, ops.expand_dims(gradient, 0)
    return [gradient, ops.clip(gradient, -0.1, 0.1), ops.expand_dims(parameters, 0), p.momenta,
            p.mean_square, p.scaled_momenta, p.inverse, p.factored_gradient,
            gradient * p.inverse, p.row, p.column, p.inverse_row, p.inverse_column,
            p.factored_momenta]


# What the small networks read.
READING = Reading(released.BANK_INPUTS, _read, 1e-6, 0.0, 1e-5)


def starts_of(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays with start vectors that have no axis of length 1."""
    return {
        name: array.reshape(-1) if name.startswith("start_") else array
        for name, array in arrays.items()}
