"""An LSTM for each tensor, which mixes a bank of small networks and decides the size of steps.

Metz et al., "VeLO: Training Versatile Learned Optimizers by Scaling Up", 2022
(https://arxiv.org/abs/2211.09760), and the program that its authors released, where its name is
HyperV2. Dimension letters are those of `interface.py`; H units, N networks in the bank.
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
from hrnn_opt.networks.functions import affine, finite_backward
from hrnn_opt.places.layout import Layout
from hrnn_opt.registry import register

_DECAYS = moments.Decays(
    np.array([0.9, 0.99, 0.999], "float32"), np.float32(0.999),
    np.array([0.9, 0.99, 0.999], "float32"))
_MOST_AXES = 5
# What is read of a tensor: sizes of its moments, and how many axes it has.
_OF_TENSOR = 1 + _MOST_AXES + 2 * moments.TIME_SCALES
INPUTS = schedule.INPUTS + _OF_TENSOR


@dataclasses.dataclass(frozen=True)
class VeLOConfig(Config):
    """Sizes and switches. The published weights have 512 units and a bank of 256.

    Args:
        units: of the LSTM, 1 to 4096.
        bank: number of networks in the bank, 1 to 4096.
        network_units, network_layers: size and number of their hidden layers, 1 to 1024 and 1 to 8.
        step_multiplier: of all steps.
        exponent_multiplier: of the log magnitude.
        mix_multiplier: of the mixture of the bank's networks.
        relative: steps are relative to the root mean square of the tensor's parameters.
        flawed_losses: averages of the loss all have the shortest time scale, as by an error in the
            first weights' program.
        weight_penalty: of the squares of parameters, added to the loss and to the gradient.

    Raises:
        ValueError: naming the argument, what came and what is allowed.
    """

    units: int = 128
    bank: int = 64
    network_units: int = 4
    network_layers: int = 2
    step_multiplier: float = 0.001
    exponent_multiplier: float = 0.001
    mix_multiplier: float = 100.0
    relative: bool = True
    flawed_losses: bool = False
    weight_penalty: float = 0.0

    NAME: ClassVar[str] = "velo"

    def __post_init__(self) -> None:
        for name, most in (
            ("units", 4096), ("bank", 4096), ("network_units", 1024), ("network_layers", 8),
        ):
            value = getattr(self, name)
            check(self, name, is_number(value, int) and 1 <= value <= most,
                  f"an integer from 1 to {most}")
        for name in ("step_multiplier", "exponent_multiplier", "mix_multiplier", "weight_penalty"):
            value = getattr(self, name)
            check(self, name, is_number(value) and 0 <= value < math.inf, "a number of at least 0")
        for name in ("relative", "flawed_losses"):
            check(self, name, isinstance(getattr(self, name), bool), "True or False")


@register
@keras.saving.register_keras_serializable(package="hrnn_opt")
class VeLO(LearnedOptimizer):
    """update = step_multiplier rate RMS(p) d exp(exponent_multiplier a), with (d, a) what a mixture
    of a bank's networks makes of 30 inputs of the parameter.

    The mixture and the rate are the LSTM's, which reads of each tensor the size of its moments, and
    of the model the loss and the share of the training that is done.

    Args:
        config: sizes and switches.
        seed: of the kernels' start values, the same on every backend.
    """

    Config = VeLOConfig
    needs = frozenset({"parameters", "loss", "horizon"})
    # It reads the parameters and the time, which are not 0 where the gradient is.
    still = False
    # The LSTM reads what is largest among all tensors.
    hierarchical = True

    def __init__(self, config: VeLOConfig | None = None, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        rng = np.random.default_rng(seed)
        c = self.config

        def weight(name, shape, fan_in=0):
            def initializer(shape, dtype=None):
                del dtype
                return moments.truncated_normal(rng, shape, fan_in)

            return self.add_weight(
                name=name, shape=shape, initializer=initializer if fan_in else "zeros")

        self.lstm = schedule.LSTM(self, INPUTS, c.units, rng)
        self.control = (
            weight("control_kernel", (c.units, c.bank), c.units), weight("control_bias", (c.bank,)))
        sizes = [released.BANK_INPUTS, *[c.network_units] * c.network_layers, 3]
        self.kernels = [
            weight(f"kernel_{i}", (c.bank, *sizes[i : i + 2]), sizes[i])
            for i in range(len(sizes) - 1)]
        self.biases = [weight(f"bias_{i}", (c.bank, size)) for i, size in enumerate(sizes[1:])]
        self.built = True

    @classmethod
    def from_released(cls, arrays, constants):
        kernel = arrays.get("rnn_params/linear_1/w")
        if kernel is None or kernel.shape[:1] != (INPUTS,):
            return None
        names = {
            **schedule.NAMES, **released.bank_names(arrays),
            "control_kernel": "rnn_params/rnn_to_controls/w",
            "control_bias": "rnn_params/rnn_to_controls/b"}
        found = schedule.starts_of(released.joined(released.renamed(
            {name: array for name, array in arrays.items() if name not in schedule.UNUSED},
            names)))
        bank, units = found["bias_0"].shape
        layers = sum(name.startswith("kernel_") for name in found) - 1
        return cls.Config(
            units=found["start_hidden"].size, bank=bank, network_units=units,
            network_layers=layers, **constants), found

    @property
    def fields(self) -> dict[str, Field]:
        units = self.config.units
        return {
            **moments.FIELDS, **losses.FIELDS, "model_steps": Field("model", wide=True),
            "lstm_hidden": Field("tensor", (units,)), "lstm_cell": Field("tensor", (units,))}

    def init_state(self, layout, models=(), log_rates=None):
        state = super().init_state(layout, models, log_rates)
        return state | self.lstm.begin(state) | losses.start(state)

    def inputs(self, layout: Layout, state: State, seen: Seen) -> Any:
        """(30, ..., B, L) what is read of the parameters, of moments after the step."""
        return schedule.READING.inputs(
            layout, state, schedule.looked_at(layout, seen, self.config.weight_penalty))

    def lstm_inputs(self, layout: Layout, state: State, seen: Seen) -> Any:
        """(30, ..., K) what the LSTM reads.

        Args:
            layout, seen: as in `step`.
            state: with moments before the step, and losses after it.
        """
        of_model = schedule.of_model(state, seen, self._loss_decay(seen))
        # (J + 1, ...): momenta and the mean square, both over the size of the parameters.
        scale = ops.rsqrt(ops.maximum(schedule.mean_square(layout, seen.parameters), 1e-9))
        x = ops.concatenate([
            state["momenta"], ops.expand_dims(state["mean_square"], 0)]) * layout.to_lanes(scale)
        means = layout.tensor_mean(x)
        of_momenta = layout.to_lanes(means[:-1])
        spread = layout.tensor_mean(ops.concatenate([
            ops.square(x[:-1] - of_momenta), ops.square(x[-1:] - of_momenta)]))
        axes = np.array([sum(n > 1 for n in shape) for shape in layout.shapes])
        one_hot = (axes == np.arange(_MOST_AXES)[:, None]).astype("float32")
        shape = tuple(means.shape)[1:]
        one_hot = ops.reshape(
            ops.convert_to_tensor(one_hot), (_MOST_AXES, *[1] * (len(shape) - 1), shape[-1]))
        return ops.concatenate([
            ops.broadcast_to(ops.expand_dims(of_model, -1), (schedule.INPUTS, *shape)),
            _log(means[-1:]), ops.broadcast_to(one_hot, (_MOST_AXES, *shape)), _log(spread)])

    def _loss_decay(self, seen: Seen) -> Any:
        if self.config.flawed_losses:
            # One for all, so that averages which are to be equal are so to the bit.
            return losses.decays(losses.SHORTEST)[:1]
        return losses.decays(seen.horizon)

    def step(
        self, layout: Layout, state: State, seen: Seen, active: Any | None = None,
        taken: Any | None = None,
    ) -> tuple[State, Step]:
        """One step; arguments and results as in `LearnedOptimizer.step`."""
        c = self.config
        seen = schedule.looked_at(layout, seen, c.weight_penalty)
        new = losses.observe(state, seen.loss, self._loss_decay(seen))
        x = self.lstm_inputs(layout, {**state, **new}, seen)
        across = ops.relu(self.lstm.affine("across", x))
        if active is not None:
            # None of them is below 0.
            across = across * ops.cast(active, "float32")
        new |= self.lstm.advance(x, ops.max(across, axis=-1, keepdims=True), state)
        new["model_steps"] = state["model_steps"] + 1.0
        size = self.rates(new)
        if c.relative:
            size = size * schedule.root_mean_square(layout, seen.parameters)
        held, factored, update = schedule.READING.step(
            layout, state, seen, _DECAYS, self._mixed,
            [layout.to_lanes(x) for x in (size[None], *self._mixtures(new))], active, taken)
        step = Step(finite_backward(update))
        return self.settled(layout, state, {**new, **factored}, step, active, taken, held)

    def rates(self, state: State) -> Any:
        """(..., K) factors of the tensors' steps, of a state after the step."""
        return self.lstm.affine("rate", ops.cast(state["lstm_hidden"], "float32"))[0]

    def controls(self, state: State) -> Any:
        """(N, ..., K) what each of the bank's networks counts, of a state after the step."""
        kernel, bias = self.control
        return affine(kernel, ops.cast(state["lstm_hidden"], "float32"), bias)

    def _mixtures(self, state: State) -> list[Any]:
        """(n m, ..., K) and (m, ..., K) for each layer: its kernel and bias, mixed for each tensor
        of those of the bank's networks, of a state after the step."""
        c, controls = self.config, self.controls(state)
        return [
            c.mix_multiplier / c.bank * affine(ops.reshape(weight, (c.bank, -1)), controls)
            for layer in zip(self.kernels, self.biases) for weight in layer]

    def _mixed(self, x: Any, size: Any, *mixtures: Any) -> Any:
        """(..., B, L) the update, of the inputs, the sizes of the tensors' updates, (1, ..., B, 1),
        and `_mixtures`, for each block."""
        c = self.config
        for i, (kernel, bias) in enumerate(zip(mixtures[::2], mixtures[1::2])):
            x = ops.relu(x) if i else x
            kernel = ops.reshape(
                kernel[..., 0], (x.shape[0], bias.shape[0], *kernel.shape[1:-1]))
            x = ops.einsum("nm...b,n...bl->m...bl", kernel, x) + bias
        return c.step_multiplier * size[0] * x[0] * ops.exp(c.exponent_multiplier * x[1])

    def describe(self, state, shape):
        count = state["mean_square"].shape[-1]
        rate = abs(self.lstm.described_rate(state))
        return {
            "log learning rate": np.full(
                count, np.log(self.config.step_multiplier * rate + 1e-30), "float32"),
            "tensor RNN norm": np.linalg.norm(state["lstm_hidden"])}


def _log(x: Any) -> Any:
    """From -2.5 to 2.5 by the size of x."""
    return 0.5 * ops.clip(ops.log(1e-8 + ops.abs(10.0 * x)), -5.0, 5.0)
