"""The hierarchical RNN: its meta-parameters and its step, each in one place.

The step is a function of (meta-parameters, state, what is seen), written once, in `keras.ops`. The
Keras optimizer calls it inside training; meta-training calls it under `jax.grad`, `vmap` and
`scan`. Section and equation numbers are those of Wichrowska et al., "Learned Optimizers that Scale
and Generalize", ICML 2017.

Dimension letters are those of `interface.py`; S gradient time scales, F features, P, T and G hidden
units of the Parameter, Tensor and Global RNN.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from hrnn_opt.interface import Field, LearnedOptimizer, Seen, State, Step
from hrnn_opt.iterates import Iterates, Lookahead, Plain
from hrnn_opt.networks.functions import affine, asinh, roots, straight_through_clip
from hrnn_opt.networks.hrnn.cells import GlobalRNN, ParameterRNN, TensorRNN
from hrnn_opt.networks.hrnn.config import HierarchicalRNNConfig
from hrnn_opt.networks.hrnn.starts import controlled
from hrnn_opt.places.layout import Layout, block_sums
from hrnn_opt.places.sweep import Moved, hold, sweep
from hrnn_opt.registry import register

# Constants of the released program.
CONSTANT_INPUT_DECAY = 0.89
CONSTANT_SCALE_DECAY = 0.93
LOG_RATE_BOUND = 33.0
# Where a rule scales the update, of how far log learning rates of a tensor may be apart.
RAW_LOG_RATE_BOUND = 6.0
# Squares of larger gradients overflow 32-bit floats.
_LARGEST_GRADIENT = 1e18
_MEAN_SQUARE_EPSILON = 1e-16
# Of the released program: what gradients of 0 would leave of mean squares.
_MEAN_SQUARE_FLOOR = 1e-12
# What is read from the Parameter RNN's hidden state, where the config has a use of it.
_READ_OUTS = ("direction", "attention", "learning_rate", "input_decay", "scale_decay")


@register
@keras.saving.register_keras_serializable(package="hrnn_opt")
class HierarchicalRNN(LearnedOptimizer):
    """The meta-parameters of the learned optimizer, and the step that they define.

    Args:
        config: the switches.
        seed: of the start values (section "start values" of the released program); the same seed
            gives the same numbers on every backend.

    Example:

    >>> network = HierarchicalRNN(HierarchicalRNNConfig(), seed=0)
    >>> layout = Layout([(3, 2), (2,)])
    >>> log_rates = np.full((layout.blocks, layout.lanes), np.log(1e-3), "float32")
    >>> state = network.init_state(layout, log_rates=log_rates)
    >>> state, step = network.step(layout, state, Seen(layout.flatten(gradients)))

    To use other numbers for the meta-parameters (to differentiate by them, say), pass them to
    `stateless_step` and `stateless_init_state`.
    """

    Config = HierarchicalRNNConfig
    config: HierarchicalRNNConfig
    hierarchical = True
    # The read-out of the hidden state is not 0 where the gradient is.
    still = False
    starts: ClassVar = {**LearnedOptimizer.starts, "controlled": controlled}

    def __init__(
        self, config: HierarchicalRNNConfig | None = None, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(config, **kwargs)
        config = self.config
        self.takes_log_rates = config.keeps_log_learning_rate and config.unit_direction
        rng = np.random.default_rng(seed)

        def normal(shape, dtype=None, scale=0.5, mean=0.0):
            del dtype
            return np.asarray(rng.normal(mean, scale / math.sqrt(shape[0]), shape), "float32")

        def weight(name, shape, initializer):
            return self.add_weight(name=name, shape=shape, initializer=initializer)

        def start(name, units):
            if not config.learned_start_vectors:
                return None
            return weight(
                name, (units,),
                lambda shape, dtype=None: np.asarray(rng.uniform(-1, 1, shape), "float32"))

        units, inputs = config.parameter_units, config.inputs
        self.parameter_rnn = ParameterRNN(inputs, units, normal, name="parameter_rnn")
        self.parameter_start = start("parameter_start", units)
        if config.tensor_units:
            self.tensor_rnn = TensorRNN(units + inputs, config.tensor_units, normal,
                                        name="tensor_rnn")
            self.tensor_start = start("tensor_start", config.tensor_units)
            self.tensor_to_parameter_kernel = weight(
                "tensor_to_parameter_kernel", (config.tensor_units, 3 * units), normal)
            self.tensor_to_parameter_bias = weight(
                "tensor_to_parameter_bias", (3 * units,), "zeros")
        if config.global_units:
            self.global_rnn = GlobalRNN(config.tensor_units, config.global_units, normal,
                                        name="global_rnn")
            self.global_start = start("global_start", config.global_units)
            self.global_to_parameter_kernel = weight(
                "global_to_parameter_kernel", (config.global_units, 3 * units), normal)
            self.global_to_parameter_bias = weight(
                "global_to_parameter_bias", (3 * units,), "zeros")
            self.global_to_tensor_kernel = weight(
                "global_to_tensor_kernel", (config.global_units, 3 * config.tensor_units), normal)
            self.global_to_tensor_bias = weight(
                "global_to_tensor_bias", (3 * config.tensor_units,), "zeros")

        direction = normal((units,))
        shortcut = normal((config.time_scales,), scale=0.1, mean=0.25)
        self.direction_weights = weight(
            "direction_weights", (units,), lambda shape, dtype=None: direction)
        if config.gradient_shortcut:
            self.direction_shortcut = weight(
                "direction_shortcut", (config.time_scales,), lambda shape, dtype=None: shortcut)
        if config.lookahead:
            self.attention_weights = weight(
                "attention_weights", (units,), lambda shape, dtype=None: direction)
            if config.gradient_shortcut:
                self.attention_shortcut = weight(
                    "attention_shortcut", (config.time_scales,),
                    lambda shape, dtype=None: shortcut)
        constant = keras.initializers.Constant
        if config.learnable_input_decay and config.time_scales > 1:
            self.input_decay_weights = weight("input_decay_weights", (units,), normal)
            self.input_decay_bias = weight("input_decay_bias", (), constant(2.2))
        if config.learnable_scale_decay:
            self.scale_decay_weights = weight("scale_decay_weights", (units,), normal)
            self.scale_decay_bias = weight("scale_decay_bias", (), constant(3.2))
        self.learning_rate_weights = weight("learning_rate_weights", (units,), "zeros")
        self.learning_rate_bias = weight("learning_rate_bias", (), "zeros")
        if config.keeps_log_learning_rate:
            self.learning_rate_momentum_logit = weight(
                "learning_rate_momentum_logit", (), constant(3.2))
            if config.unit_direction:
                self.step_size_offset = weight("step_size_offset", (), constant(-1.0))
        self.built = True

    @property
    def meta_parameters(self) -> dict[str, keras.Variable]:
        """Every meta-parameter by name (`"parameter_rnn/gates_kernel"`, say)."""
        named = {}
        for prefix in ("parameter_rnn", "tensor_rnn", "global_rnn"):
            if hasattr(self, prefix):
                for variable in getattr(self, prefix).weights:
                    named[f"{prefix}/{variable.name}"] = variable
        below = {id(variable) for variable in named.values()}
        return named | {v.name: v for v in self.weights if id(v) not in below}

    @property
    def iterates(self) -> Iterates:
        return Lookahead() if self.config.lookahead else Plain()

    # The state.

    @functools.cached_property
    def _moved_fields(self) -> dict[str, Field]:
        """What the parameters' level moves; both decays, averages and mean squares start at 0."""
        config, scales = self.config, (self.config.time_scales,)
        fields = {"hidden": Field(leading=(config.parameter_units,))}
        if config.time_scales > 1:
            fields["averages"] = Field(leading=scales)
        fields["mean_squares"] = Field(leading=scales)
        if config.time_scales > 1:
            # Decay of the fastest average.
            fields["input_decay"] = Field()
        fields["scale_decay"] = Field()
        if config.keeps_log_learning_rate:
            # Its running mean.
            fields["log_learning_rate"] = Field()
        return fields

    @functools.cached_property
    def fields(self) -> dict[str, Field]:
        fields = dict(self._moved_fields)
        if self.config.tensor_units:
            fields["tensor_hidden"] = Field("tensor", (self.config.tensor_units,))
        if self.config.global_units:
            fields["global_hidden"] = Field("model", (self.config.global_units,))
        return fields

    def init_state(
        self, layout: Layout, models: tuple[int, ...] = (), log_rates: Any | None = None
    ) -> State:
        """The state before the first step: every RNN at its learned start vector, all averages and
        decays 0; arguments as in `LearnedOptimizer.init_state`."""
        state = super().init_state(layout, models)
        if self.config.learned_start_vectors:
            for level in ("parameter", "tensor", "global"):
                name = "hidden" if level == "parameter" else f"{level}_hidden"
                if name in state:
                    vector = getattr(self, f"{level}_start")
                    shape = tuple(state[name].shape)
                    vector = ops.reshape(vector, (-1,) + (1,) * (len(shape) - 1))
                    # In memory of its own, to be written over.
                    state[name] = ops.copy(ops.broadcast_to(vector, shape))
        if self.takes_log_rates and log_rates is not None:
            state["log_learning_rate"] = ops.convert_to_tensor(log_rates, "float32")
        return state

    # One step.

    def step(
        self, layout: Layout, state: State, seen: Seen, active: Any | None = None,
        taken: Any | None = None,
    ) -> tuple[State, Step]:
        """One step; arguments and results as in `LearnedOptimizer.step`."""
        config = self.config
        gradient = ops.clip(seen.gradient, -_LARGEST_GRADIENT, _LARGEST_GRADIENT)
        updates = 2 if config.lookahead else 1
        moved = sweep(
            self._move, layout, {name: state[name] for name in self._moved_fields},
            (gradient, self._parameter_bias(layout, state), self._mean_log_rate(layout, state)),
            rows=updates, sums=(config.parameter_units + config.inputs, updates),
            active=active, taken=taken)
        children, squares = moved.sums
        of_levels = self._upper_levels(state, layout.mean_of_blocks(children), active)
        sized = self._sized(layout, moved.rows, squares)
        # The floor is not the gradient's.
        metric = ops.cast(moved.state["mean_squares"][0], "float32") - _MEAN_SQUARE_FLOOR
        step = Step(
            sized[0], sized[1] if config.lookahead else None, metric=metric,
            squares=None if config.unit_direction else squares[0])
        return self.settled(layout, state, of_levels, step, active, taken, held=moved.state)

    def _move(self, state: State, given: list[Any], used_lanes: Any, moves: Any | None) -> Moved:
        """The parameters' level, of all blocks or some, given what comes from above."""
        gradient, bias, mean_log_rate = given
        averages, mean_squares, scaled = self._scaled_averages(state, gradient, moves)
        x = self._inputs(state, scaled, mean_squares, mean_log_rate)
        hidden = hold(moves, self.parameter_rnn(
            x, state["hidden"], *([] if bias is None else [bias])), state["hidden"])
        read = self._read_outs(hidden)
        log_rate, log_learning_rate = self._learning_rate(state, read)
        names = ("direction", "attention") if self.config.lookahead else ("direction",)
        updates, squares = zip(*(
            self._unscaled(self._direction(read, scaled, name), log_rate, name)
            for name in names))
        after = dict(
            input_decay=self._input_decay(state, read),
            scale_decay=self._scale_decay(state, read), log_learning_rate=log_learning_rate)
        held = dict(hidden=hidden, averages=averages, mean_squares=mean_squares)
        held |= {name: hold(moves, x, state[name]) for name, x in after.items() if name in state}
        return Moved(
            {name: held[name] for name in self._moved_fields}, updates,
            [block_sums(ops.concatenate([hidden, x]), used_lanes),
             block_sums(ops.stack(squares), used_lanes)])

    def _scaled_averages(
        self, state: State, gradient: Any, moves: Any | None
    ) -> tuple[Any, Any, Any]:
        """Momentum at several time scales (3.3.2) and dynamic input scaling (3.3.3).

        d_1 = b_g, d_{s+1} = sqrt(d_s); average_s <- (1 - d_s) g + d_s average_s;
        lambda_s <- (1 - b_l)(average_s^2 + 1e-12) + b_l lambda_s;
        m_s = asinh(average_s / sqrt(lambda_s + 1e-16)). Both decays are 0 before the first step,
        so that averages and mean squares start at their first values.
        """
        if self.config.time_scales == 1:
            new_averages, averages = None, ops.expand_dims(gradient, 0)
        else:
            decay = roots(state["input_decay"], self.config.time_scales)
            averages = new_averages = hold(
                moves, (1.0 - decay) * self._for_scales(gradient) + decay * state["averages"],
                state["averages"])
        kept = self._for_scales(state["scale_decay"])
        squares = ops.square(averages) + _MEAN_SQUARE_FLOOR
        mean_squares = hold(
            moves, (1.0 - kept) * squares + kept * state["mean_squares"], state["mean_squares"])
        scaled = asinh(averages * ops.rsqrt(mean_squares + _MEAN_SQUARE_EPSILON))
        return new_averages, mean_squares, scaled

    def _for_scales(self, x: Any) -> Any:
        """(S, ...): a copy for each scale. Broadcasting would do, were it not for its derivative:
        a reduction over the first axis is much slower than this one's few additions."""
        return ops.stack([x] * self.config.time_scales)

    def _inputs(self, state: State, scaled: Any, mean_squares: Any, mean_log_rate: Any) -> Any:
        """(F, ..., B, L) inputs of the Parameter RNN (3.3.2 to 3.3.5), F = `config.inputs`."""
        config = self.config
        inputs = [scaled]
        if config.gradient_products and config.time_scales > 1:
            inputs.append(scaled[:-1] * scaled[1:])
        if config.relative_log_mean_squares:
            logs = ops.log(mean_squares + _MEAN_SQUARE_EPSILON)
            # Sums of a few arrays, since a reduction over the first axis stands alone.
            mean = sum(ops.unstack(logs, config.time_scales)) / config.time_scales
            inputs.append(logs - ops.expand_dims(mean, 0))
        if config.feeds_relative_learning_rate:
            inputs.append(ops.expand_dims(state["log_learning_rate"], 0) - mean_log_rate)
        return ops.concatenate(inputs) if len(inputs) > 1 else inputs[0]

    def _mean_log_rate(self, layout: Layout, state: State) -> Any | None:
        """(1, ..., B, 1) or (1, ..., 1, 1): what log learning rates are relative to (3.3.5)."""
        if not self.config.feeds_relative_learning_rate:
            return None
        rates = ops.expand_dims(ops.cast(state["log_learning_rate"], "float32"), 0)
        mean = layout.tensor_mean(rates)
        if self.config.relative_learning_rate == "tensor":
            return layout.to_lanes(mean)
        return layout.model_mean(mean)[..., None, None]

    def _parameter_bias(self, layout: Layout, state: State) -> Any | None:
        """(3 P, ..., B, 1) bias that the upper levels' states before this step inject (3.2)."""
        if not self.config.tensor_units:
            return None
        bias = affine(self.tensor_to_parameter_kernel, state["tensor_hidden"],
                      self.tensor_to_parameter_bias)
        if self.config.global_units:
            from_global = affine(self.global_to_parameter_kernel, state["global_hidden"],
                                 self.global_to_parameter_bias)
            bias = bias + ops.expand_dims(from_global, -1)
        return layout.to_lanes(bias)

    def _upper_levels(self, state: State, children: Any, active: Any | None) -> State:
        """New states of the Tensor and the Global RNN (3.2): each reads means over its children,
        (P + F, ..., K) those over each tensor's parameters of their hidden states and inputs."""
        config = self.config
        if not config.tensor_units:
            return {}
        bias = None
        if config.global_units:
            bias = ops.expand_dims(
                affine(self.global_to_tensor_kernel, state["global_hidden"],
                       self.global_to_tensor_bias), -1)
        tensor_hidden = self.tensor_rnn(children, state["tensor_hidden"], bias)
        if not config.global_units:
            return {"tensor_hidden": tensor_hidden}
        if active is None:
            mean = ops.mean(tensor_hidden, axis=-1)
        else:
            counts = ops.cast(active, "float32")
            mean = ops.sum(tensor_hidden * counts, axis=-1) / ops.maximum(ops.sum(counts), 1.0)
        return {"tensor_hidden": tensor_hidden,
                "global_hidden": self.global_rnn(mean, state["global_hidden"])}

    def _read_outs(self, hidden: Any) -> dict[str, Any]:
        """(..., B, L) each: everything that is read from the new hidden state, in one product."""
        names = [name for name in _READ_OUTS if hasattr(self, f"{name}_weights")]
        weights = ops.stack([getattr(self, f"{name}_weights") for name in names], axis=1)
        return dict(zip(names, ops.unstack(affine(weights, hidden), len(names))))

    def _direction(self, read: dict[str, Any], scaled: Any, name: str) -> Any:
        """(..., B, L) direction: a read-out of the hidden state plus the shortcut (3.3.4)."""
        if not self.config.gradient_shortcut:
            return read[name]
        shortcut = ops.expand_dims(getattr(self, f"{name}_shortcut"), 1)
        return read[name] + affine(shortcut, scaled)[0]

    def _learning_rate(self, state: State, read: dict[str, Any]) -> tuple[Any, Any]:
        """(..., B, L) log learning rate of this step, and its running mean (3.3.4).

        eta = clip(eta_bar + w_eta . h + c_eta), eta_bar <- gamma eta_bar + (1 - gamma) eta.
        """
        change = read["learning_rate"] + self.learning_rate_bias
        if not self.config.keeps_log_learning_rate:
            return change, None
        bound = LOG_RATE_BOUND if self.config.unit_direction else RAW_LOG_RATE_BOUND
        log_rate = straight_through_clip(state["log_learning_rate"] + change, bound)
        momentum = ops.sigmoid(self.learning_rate_momentum_logit)
        return log_rate, momentum * state["log_learning_rate"] + (1.0 - momentum) * log_rate

    def _unscaled(self, direction: Any, log_rate: Any, name: str) -> tuple[Any, Any]:
        """(..., B, L) update before it is scaled by its tensor's RMS, and the squares whose mean
        that is the root of: see `_sized`."""
        config = self.config
        if not config.dynamic_output_scale:
            return 2.0 * ops.sigmoid(log_rate) * direction, ops.square(direction)
        if config.unit_direction:
            if name == "direction":
                log_rate = log_rate + self.step_size_offset
            return ops.exp(log_rate) * direction, ops.square(direction)
        update = ops.exp(log_rate) * direction
        return update, ops.square(update)

    def _sized(self, layout: Layout, updates: Sequence[Any], squares: Any) -> list[Any]:
        """(..., B, L) updates: directions d at their step sizes.

        exp(eta + c_step) d / RMS(d) (the attended location has no offset); without unit direction
        exp(eta) d; without dynamic output scale 2 sigmoid(.) d.
        """
        if not (self.config.unit_direction and self.config.dynamic_output_scale):
            return list(updates)
        mean_squares = ops.unstack(layout.mean_of_blocks(squares), len(updates))
        return [
            update * layout.to_lanes(ops.rsqrt(mean_square + _MEAN_SQUARE_EPSILON))
            for update, mean_square in zip(updates, mean_squares)]

    def _input_decay(self, state: State, read: dict[str, Any]) -> Any:
        if self.config.time_scales == 1:
            return None
        if not self.config.learnable_input_decay:
            return ops.full_like(state["input_decay"], CONSTANT_INPUT_DECAY)
        return ops.sigmoid(read["input_decay"] + self.input_decay_bias)

    def _scale_decay(self, state: State, read: dict[str, Any]) -> Any:
        if not self.config.learnable_scale_decay:
            return ops.full_like(state["scale_decay"], CONSTANT_SCALE_DECAY)
        return ops.sigmoid(read["scale_decay"] + self.scale_decay_bias)

    # What there is to log.

    def describe(self, state: State, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        meta = {name: np.asarray(value) for name, value in self.meta_parameters.items()}
        found = {
            "log learning rate": self._log_rates(meta, state),
            "scale decay": state["scale_decay"],
            "parameter RNN norm": np.linalg.norm(state["hidden"], axis=0),
        }
        if "input_decay" in state:
            # A decay of 0 has no memory, one of 1 (rounded) no end.
            with np.errstate(divide="ignore"):
                fastest = 1.0 / np.abs(np.log(state["input_decay"]))
            # d_{s+1} = sqrt(d_s) doubles the time.
            found["momentum time scale"] = np.stack(
                [2.0**s * fastest for s in range(self.config.time_scales)])
            logs = np.log(state["mean_squares"] + _MEAN_SQUARE_EPSILON)
            found["relative log mean square"] = logs - np.mean(logs, axis=0)
        if "tensor_hidden" in state:
            found["tensor RNN norm"] = np.linalg.norm(state["tensor_hidden"])
        if "global_hidden" in state:
            found["global RNN norm"] = np.linalg.norm(state["global_hidden"])
        return found

    def _log_rates(self, meta: dict[str, np.ndarray], state: State) -> np.ndarray:
        """(N,) log of how far a direction of 1 moves each parameter, with a rate of 1."""
        if not self.config.dynamic_output_scale:
            read = (np.tensordot(meta["learning_rate_weights"], state["hidden"], 1)
                    + meta["learning_rate_bias"])
            return np.log(2.0) - np.logaddexp(0.0, -read)
        offset = meta["step_size_offset"] if self.config.unit_direction else 0.0
        return state["log_learning_rate"] + offset
