"""A small fully connected network for each parameter, the same for all, which reads its moments.

Metz et al., "Practical tradeoffs between memory, compute, and performance in learned optimizers",
CoLLAs 2022 (https://arxiv.org/abs/2203.11860), and the program that its authors released, where its
name is small_fc_lopt. Dimension letters are those of `interface.py`.
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
from hrnn_opt.networks import moments, released
from hrnn_opt.networks.functions import affine
from hrnn_opt.networks.reading import Reading
from hrnn_opt.places.layout import Layout
from hrnn_opt.registry import register

# What is read of a parameter, and what of the time: tanh(t / T - 1) for each T.
INPUTS = 28
_TIMES = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
_EPSILON = 1e-6
_NORM_EPSILON = 1e-5
# Of the scale that decays are learned in.
_LOG_SCALE = 10.0


@dataclasses.dataclass(frozen=True)
class SmallFCConfig(Config):
    """Sizes and constants, by default those of the published weights.

    Args:
        units, layers: size and number of the hidden layers, 1 to 1024 and 1 to 8.
        step_multiplier: of all steps.
        exponent_multiplier: of the log magnitude.
        momentum_decays, mean_square_decay, factored_decays: where decays start, three, one and
            three numbers, each at least 0 and below 1.

    Raises:
        ValueError: naming the argument, what came and what is allowed.
    """

    units: int = 32
    layers: int = 2
    step_multiplier: float = 0.01
    exponent_multiplier: float = 0.001
    momentum_decays: tuple[float, ...] = (0.9, 0.99, 0.999)
    mean_square_decay: float = 0.999
    factored_decays: tuple[float, ...] = (0.9, 0.99, 0.999)

    NAME: ClassVar[str] = "small_fc"

    def __post_init__(self) -> None:
        for name, most in (("units", 1024), ("layers", 8)):
            value = getattr(self, name)
            check(self, name, is_number(value, int) and 1 <= value <= most,
                  f"an integer from 1 to {most}")
        for name in ("step_multiplier", "exponent_multiplier"):
            value = getattr(self, name)
            check(self, name, is_number(value) and 0 <= value < math.inf, "a number of at least 0")
        check(self, "mean_square_decay", _is_decay(self.mean_square_decay),
              "a number of at least 0 and below 1")
        for name in ("momentum_decays", "factored_decays"):
            value = getattr(self, name)
            check(self, name,
                  isinstance(value, tuple) and len(value) == moments.TIME_SCALES
                  and all(map(_is_decay, value)), "three numbers of at least 0 and below 1")


def _is_decay(value: Any) -> bool:
    return is_number(value) and 0 <= value < 1


@register
@keras.saving.register_keras_serializable(package="hrnn_opt")
class SmallFC(LearnedOptimizer):
    """update = step_multiplier d exp(exponent_multiplier a), with (d, a) what a network makes of 28
    inputs of the parameter and 11 of the time.

    The inputs of a parameter are its gradient, value and moments, each over its root mean square in
    the tensor. Decays are learned, 1 - beta = (1 - beta_0) exp(10 offset).

    Args:
        config: sizes and constants.
        seed: of the kernels' start values, the same on every backend. All else starts at 0.
    """

    Config = SmallFCConfig
    needs = frozenset({"parameters"})
    # It reads the parameter and the time, which are not 0 where the gradient is.
    still = False

    def __init__(
        self, config: SmallFCConfig | None = None, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(config, **kwargs)
        rng = np.random.default_rng(seed)
        c, scales = self.config, moments.TIME_SCALES

        def kernel(shape, dtype=None):
            del dtype
            return moments.truncated_normal(rng, shape, shape[0])

        def weight(name, shape, initializer="zeros"):
            return self.add_weight(name=name, shape=shape, initializer=initializer)

        self.momentum_offsets = weight("momentum_decays", (scales,))
        self.mean_square_offset = weight("mean_square_decay", (1,))
        self.factored_offsets = weight("factored_decays", (scales,))
        sizes = [INPUTS + len(_TIMES), *[c.units] * c.layers, 2]
        self.kernels = [weight(f"kernel_{i}", sizes[i : i + 2], kernel)
                        for i in range(len(sizes) - 1)]
        self.biases = [weight(f"bias_{i}", (size,)) for i, size in enumerate(sizes[1:])]
        self.built = True

    @classmethod
    def from_released(cls, arrays, constants):
        if "nn/~/w0" not in arrays:
            return None
        count = sum(name.startswith("nn/~/w") for name in arrays)
        names = {"momentum_decays": "momentum_decays", "mean_square_decay": "rms_decays",
                 "factored_decays": "adafactor_decays"}
        for i in range(count):
            names |= {f"kernel_{i}": f"nn/~/w{i}", f"bias_{i}": f"nn/~/b{i}"}
        found = released.renamed(arrays, names)
        return cls.Config(
            units=found["bias_0"].size, layers=count - 1, **constants), found

    @property
    def fields(self) -> dict[str, Field]:
        return {**moments.FIELDS, "model_steps": Field("model", wide=True)}

    def decays(self) -> moments.Decays:
        """The decays in use. Those of momenta may be below 0, as in the released program; the
        others are not."""
        c = self.config
        return moments.Decays(
            _learned(c.momentum_decays, self.momentum_offsets),
            ops.clip(_learned((c.mean_square_decay,), self.mean_square_offset), 0.0, 1.0)[0],
            ops.clip(_learned(c.factored_decays, self.factored_offsets), 0.0, 1.0))

    def inputs(self, layout: Layout, state: State, seen: Seen) -> Any:
        """(28, ..., B, L) what is read of the parameters, of moments after the step."""
        return _reading().inputs(layout, state, _clipped(seen))

    def step(
        self, layout: Layout, state: State, seen: Seen, active: Any | None = None,
        taken: Any | None = None,
    ) -> tuple[State, Step]:
        """One step; arguments and results as in `LearnedOptimizer.step`."""
        c, steps = self.config, state["model_steps"]
        first = ops.convert_to_tensor(self.kernels[0])
        # Inputs of the time are the same for all, and as good as a bias.
        bias = affine(first[INPUTS:], _of_time(steps), self.biases[0])[..., None, None]

        def update(x: Any, bias: Any) -> Any:
            x = ops.relu(affine(first[:INPUTS], x) + bias)
            out = moments.layers(self.kernels[1:], self.biases[1:], x)
            return c.step_multiplier * out[0] * ops.exp(c.exponent_multiplier * out[1])

        held, factored, of_parameters = _reading().step(
            layout, state, _clipped(seen), self.decays(), update, [bias], active, taken)
        return self.settled(
            layout, state, {**factored, "model_steps": steps + 1.0}, Step(of_parameters), active,
            taken, held)


def _read(gradient: Any, parameters: Any, parts: moments.Parts) -> list[Any]:
    p = parts
    return [ops.expand_dims(gradient, 0), ops.expand_dims(parameters, 0), p.momenta,
            p.mean_square, p.scaled_momenta, p.inverse, p.factored_gradient, p.row, p.column,
            p.inverse_row, p.inverse_column, p.factored_momenta]


def _reading() -> Reading:
    return Reading(INPUTS, _read, _EPSILON, _EPSILON, _NORM_EPSILON)


def _clipped(seen: Seen) -> Seen:
    bound = moments.LARGEST_GRADIENT
    return seen._replace(gradient=ops.clip(seen.gradient, -bound, bound))


def _learned(start: tuple[float, ...], offsets: Any) -> Any:
    """(J,) decays, learned as offsets in a log scale."""
    # In 32 bits from the start, where 1 - 0.999 differs from 0.001 in the fifth digit.
    logs = np.log(np.float32(1.0) - np.array(start, "float32")) / np.float32(_LOG_SCALE)
    return 1.0 - ops.exp(_LOG_SCALE * (ops.convert_to_tensor(logs) + offsets))


def _of_time(steps: Any) -> Any:
    """(11, ...) what is read of the number of steps before this one."""
    times = np.array(_TIMES, "float32").reshape(-1, *[1] * len(steps.shape))
    return ops.tanh(ops.expand_dims(steps, 0) / ops.convert_to_tensor(times) - 1.0)
