"""A small network for each parameter, and one LSTM that decides the size of all steps.

Moudgil et al., "Celo: Training Versatile Learned Optimizers on a Compute Diet", TMLR 2025
(https://arxiv.org/abs/2501.12670), and the program that its authors released. In place of the
network there may be Adam, whose rate the LSTM then decides. Dimension letters are those of
`interface.py`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from hrnn_opt.checks import Config, check, is_number
from hrnn_opt.interface import Field, LearnedOptimizer, Seen, State, Step
from hrnn_opt.networks import losses, moments, released, schedule
from hrnn_opt.networks.functions import finite_backward
from hrnn_opt.places.layout import Layout
from hrnn_opt.registry import register

DIRECTIONS = ("network", "adam")
_DECAYS = moments.Decays(
    np.array([0.9, 0.99, 0.999], "float32"), np.float32(0.999),
    np.array([0.9, 0.99, 0.999], "float32"))
_RATE_MULTIPLIER = 0.1
# Larger exponents leave 32 bits.
_LARGEST_EXPONENT = 60.0
# Adam's, outside and inside of the root.
_EPSILON, _SQUARE_EPSILON = 1e-8, 1e-10


@dataclasses.dataclass(frozen=True)
class CeloConfig(Config):
    """Sizes and switches, by default those of the published weights.

    Args:
        units: of the LSTM, 1 to 4096.
        network_units, network_layers: size and number of the network's hidden layers, 1 to 1024 and
            1 to 8.
        step_multiplier: of all steps.
        exponent_multiplier: of the log magnitude.
        scheduled: the LSTM's rate is in the steps. False: as in the first phase of meta-training.
        direction: of a step: the `network`'s, or Adam's, `adam`.
        weight_penalty: of the squares of parameters, added to the loss and to the gradient.

    Raises:
        ValueError: naming the argument, what came and what is allowed.
    """

    units: int = 64
    network_units: int = 4
    network_layers: int = 2
    step_multiplier: float = 0.001
    exponent_multiplier: float = 0.001
    scheduled: bool = True
    direction: str = "network"
    weight_penalty: float = 0.0

    NAME: ClassVar[str] = "celo"

    def __post_init__(self) -> None:
        for name, most in (("units", 4096), ("network_units", 1024), ("network_layers", 8)):
            value = getattr(self, name)
            check(self, name, is_number(value, int) and 1 <= value <= most,
                  f"an integer from 1 to {most}")
        for name in ("step_multiplier", "exponent_multiplier", "weight_penalty"):
            value = getattr(self, name)
            check(self, name, is_number(value) and 0 <= value < math.inf, "a number of at least 0")
        check(self, "scheduled", isinstance(self.scheduled, bool), "True or False")
        check(self, "direction", self.direction in DIRECTIONS, f"one of {DIRECTIONS}")


@register
@keras.saving.register_keras_serializable(package="hrnn_opt")
class Celo(LearnedOptimizer):
    """update = step_multiplier rate RMS(p) d exp(exponent_multiplier a), with (d, a) what a network
    makes of 30 inputs of the parameter; or step_multiplier rate times Adam's update.

    The rate is 0.1 exp of what an LSTM makes of the loss and the share of the training that is
    done: a learned schedule, the same for all tensors.

    Args:
        config: sizes and switches.
        seed: of the kernels' start values, the same on every backend.
    """

    Config = CeloConfig
    needs = frozenset({"parameters", "loss", "horizon"})

    def __init__(self, config: CeloConfig | None = None, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        rng = np.random.default_rng(seed)
        c = self.config
        # The network reads the parameters, which are not 0 where the gradient is.
        self.still = self.adam = c.direction == "adam"

        def kernel(shape, dtype=None):
            del dtype
            return moments.truncated_normal(rng, shape, shape[0])

        self.lstm = schedule.LSTM(self, schedule.INPUTS, c.units, rng)
        sizes = [] if self.adam else [
            released.BANK_INPUTS, *[c.network_units] * c.network_layers, 3]
        self.kernels = [
            self.add_weight(name=f"kernel_{i}", shape=sizes[i : i + 2], initializer=kernel)
            for i in range(len(sizes) - 1)]
        self.biases = [
            self.add_weight(name=f"bias_{i}", shape=(size,), initializer="zeros")
            for i, size in enumerate(sizes[1:])]
        self.built = True

    @classmethod
    def from_released(cls, arrays, constants):
        kernel = arrays.get("rnn_params/linear_1/w")
        if kernel is None or kernel.shape[:1] != (schedule.INPUTS,):
            return None
        adam = "ff_mod_stack/~/w0__0" not in arrays
        # A mixture of one network is that network, whatever it counts.
        unused = (*schedule.UNUSED, "rnn_params/rnn_to_controls/w", "rnn_params/rnn_to_controls/b")
        arrays = {
            # A bank of one network.
            name: array[0] if name.startswith("ff_mod_stack") and len(array) == 1 else array
            for name, array in arrays.items() if name not in unused}
        names = dict(schedule.NAMES)
        if not adam:
            names |= released.bank_names(arrays)
        found = released.renamed(arrays, names)
        sizes: dict[str, Any] = {}
        if not adam:
            found = released.joined(found)
            sizes = {"network_units": found["bias_0"].size, "network_layers": sum(
                name.startswith("kernel_") for name in found) - 1}
        found = schedule.starts_of(found)
        return cls.Config(
            units=found["start_hidden"].size, direction=DIRECTIONS[adam],
            **sizes, **constants), found

    @property
    def fields(self) -> dict[str, Field]:
        vector = Field("model", (self.config.units,))
        of_direction = {
            "mean": Field(), "mean_square": Field(wide=True),
            "tensor_steps": Field("tensor", wide=True),
        } if self.adam else moments.FIELDS
        return {
            **of_direction, **losses.FIELDS, "model_steps": Field("model", wide=True),
            "lstm_hidden": vector, "lstm_cell": vector}

    def init_state(self, layout, models=(), log_rates=None):
        state = super().init_state(layout, models, log_rates)
        return state | self.lstm.begin(state) | losses.start(state)

    def inputs(self, layout: Layout, state: State, seen: Seen) -> Any:
        """(30, ..., B, L) what is read of the parameters, of moments after the step."""
        return schedule.READING.inputs(
            layout, state, schedule.looked_at(layout, seen, self.config.weight_penalty))

    def lstm_inputs(self, layout: Layout, state: State, seen: Seen) -> Any:
        """(18, ...) what the LSTM reads, of a state with losses after the step."""
        del layout
        return schedule.of_model(state, seen, losses.decays(seen.horizon))

    def step(
        self, layout: Layout, state: State, seen: Seen, active: Any | None = None,
        taken: Any | None = None,
    ) -> tuple[State, Step]:
        """One step; arguments and results as in `LearnedOptimizer.step`."""
        c = self.config
        seen = schedule.looked_at(layout, seen, c.weight_penalty)
        new = losses.observe(state, seen.loss, losses.decays(seen.horizon))
        x = self.lstm_inputs(layout, {**state, **new}, seen)
        new |= self.lstm.advance(x, ops.relu(self.lstm.affine("across", x)), state)
        new["model_steps"] = state["model_steps"] + 1.0
        if self.adam:
            held: State = {}
            of_direction, update = self._adam(layout, state, seen.gradient)
        else:
            held, of_direction, update = schedule.READING.step(
                layout, state, seen, _DECAYS, self._direction,
                [layout.to_lanes(schedule.root_mean_square(layout, seen.parameters))[None]],
                active, taken)
        if c.scheduled:
            update = update * self.rates(new)[..., None, None]
        step = Step(finite_backward(c.step_multiplier * update))
        return self.settled(layout, state, {**new, **of_direction}, step, active, taken, held)

    def _direction(self, x: Any, size: Any) -> Any:
        """(..., B, L) of the inputs and the sizes of the tensors, (1, ..., B, 1)."""
        direction, magnitude, _ = ops.unstack(moments.layers(self.kernels, self.biases, x), 3)
        return direction * ops.exp(self.config.exponent_multiplier * magnitude) * size[0]

    def rates(self, state: State) -> Any:
        """(...) the factor of all steps, of a state after the step."""
        read = self.lstm.affine("rate", ops.cast(state["lstm_hidden"], "float32"))[0]
        return _RATE_MULTIPLIER * ops.exp(ops.minimum(read, _LARGEST_EXPONENT))

    def _adam(self, layout: Layout, state: State, gradient: Any) -> tuple[State, Any]:
        steps = state["tensor_steps"] + 1.0
        b, c = _DECAYS.momenta[0], _DECAYS.mean_square
        # As tensors: NumPy's numbers do not multiply TensorFlow's variables in a graph.
        mean, square = (ops.cast(state[name], "float32") for name in ("mean", "mean_square"))
        mean = b * mean + (1.0 - b) * gradient
        square = c * square + (1.0 - c) * ops.square(gradient)
        of_mean, of_square = (
            layout.to_lanes(1.0 / (1.0 - ops.power(decay, steps))) for decay in (b, c))
        return (
            {"mean": mean, "mean_square": square, "tensor_steps": steps},
            of_mean * mean / (_EPSILON + ops.sqrt(of_square * square + _SQUARE_EPSILON)))

    def describe(self, state, shape):
        count = state["mean_square"].shape[-1]
        read = self.lstm.described_rate(state)
        log_rate = math.log(_RATE_MULTIPLIER * self.config.step_multiplier + 1e-30) + read
        return {"log learning rate": np.full(count, log_rate, "float32"),
                "global RNN norm": np.linalg.norm(state["lstm_hidden"])}
