"""The three recurrent layers: GRU cells whose biases another level injects.

Arrays are feature-major: features come first, then any number of axes of things that share the
weights (blocks and lanes of parameters, tensors, or nothing). One contiguous vector for each
feature is what vector units like, and it turns every product into one large one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from hrnn_opt.networks import in_place
from hrnn_opt.networks.functions import affine
from hrnn_opt.places import backend

Initializer = Callable[..., Any]


class BiasGRU(keras.layers.Layer):
    """A GRU cell with an injected bias (Wichrowska et al. 2017, section 3.2).

    With z = [x, h]: r, u = sigmoid(W_gates z + b_gates + injected[reset, update]),
    c = tanh(W_candidate [x, r h] + b_candidate + injected[candidate]), h <- u h + (1 - u) c.

    Args:
        inputs: number of input features n.
        units: hidden size m.
        kernel_initializer: called with (shape, dtype); draws the matrices.
        gate_bias: start value of the gate biases (2.2 keeps 90 % of the state at a step).
    """

    def __init__(
        self, inputs: int, units: int, kernel_initializer: Initializer, gate_bias: float = 2.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(dtype="float32", autocast=False, **kwargs)
        self.inputs = inputs
        self.units = units
        total = inputs + units
        self.gates_kernel = self.add_weight(
            name="gates_kernel", shape=(total, 2 * units), initializer=kernel_initializer)
        self.gates_bias = self.add_weight(
            name="gates_bias", shape=(2 * units,),
            initializer=keras.initializers.Constant(gate_bias))
        self.candidate_kernel = self.add_weight(
            name="candidate_kernel", shape=(total, units), initializer=kernel_initializer)
        self.candidate_bias = self.add_weight(
            name="candidate_bias", shape=(units,), initializer="zeros")
        self.built = True

    def call(self, x: Any, hidden: Any, injected: Any | None = None) -> Any:
        """One step.

        Args:
            x: (n, ...) inputs.
            hidden: (m, ...) hidden state.
            injected: (3 m, ...) biases in the order reset, update, candidate, or None.

        Returns:
            (m, ...) new hidden state.
        """
        m, n = self.units, self.inputs
        gates, candidate = ops.convert_to_tensor(self.gates_kernel), ops.convert_to_tensor(
            self.candidate_kernel)
        # Summed first: the derivative of each wide sum is a reduction over all parameters.
        bias = ops.concatenate([self.gates_bias, self.candidate_bias])
        bias = ops.reshape(bias, (-1,) + (1,) * (len(hidden.shape) - 1))
        if injected is not None:
            bias = bias + injected
        if backend.overwrites():
            return in_place.gru(gates, candidate, bias, x, hidden)
        # What x contributes to all three is one product.
        from_x = affine(ops.concatenate([gates[:n], candidate[:n]], axis=1), x) + bias
        reset_update = ops.sigmoid(from_x[: 2 * m] + affine(gates[n:], hidden))
        reset, update = reset_update[:m], reset_update[m:]
        proposal = ops.tanh(from_x[2 * m :] + affine(candidate[n:], reset * hidden))
        return update * hidden + (1.0 - update) * proposal


class ParameterRNN(BiasGRU):
    """The lowest level: one hidden state for each parameter, weights shared by all of them."""


class TensorRNN(BiasGRU):
    """The middle level: one hidden state for each tensor; reads means over its parameters."""


class GlobalRNN(BiasGRU):
    """The highest level: one hidden state for the model; reads the mean over tensors."""
