"""A hierarchical RNN whose directions are odd in the gradient, and whose start is the hand-made
rule's core.

What is read from the hidden state does not add to the direction, it weighs the scaled averages of
which the direction is made; and the network reads nothing but what stays as it is when a gradient
changes its sign. So d(-g) = -d(g), and what has no gradient does not move. With mean squares shrunk
towards their tensor's, meta-gradients of whole runs of a thousand steps are of order 1.

Dimension letters are those of `interface.py`; S gradient time scales, F features, P, T and G hidden
units of the Parameter, Tensor and Global RNN.
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
from hrnn_opt.networks import accumulators
from hrnn_opt.networks.direction import START
from hrnn_opt.networks.functions import affine
from hrnn_opt.networks.hrnn.cells import GlobalRNN, ParameterRNN, TensorRNN
from hrnn_opt.places.layout import Layout, block_sums
from hrnn_opt.places.sweep import Moved, hold, sweep
from hrnn_opt.registry import register

# Of the factor of a tensor's updates, and of that of its shrinkage, either way.
LOG_SIZE_BOUND = math.log(8.0)
LOG_SHRINKAGE_BOUND = math.log(1e3)
# Of the sum of the averages' weights. By hand, after 0.1 and 0.3 on an autoencoder (lab/50).
LEAST_WEIGHT = 0.3
# Of a mean square over its tensor's: less is not told apart.
_LEAST_SHARE = 1e-8
# Either way, of what gates read of the inputs; some are logs or products.
_LARGEST_INPUT = 2.0
# What a tensor is: logs of its rows and columns, whether it is a matrix, and its place among all.
_DESCRIPTORS = 4
# What gates may read of a tensor's run: a clock, how far gradients have fallen, how they agree.
_OF_RUN = 3
_LEAST_AGREEMENT = 1e-3
# What the model's level reads beside its tensors: a clock, whether the share of the training that
# is done is known, and that share.
_OF_MODEL = 3


@dataclasses.dataclass(frozen=True)
class EquivariantRNNConfig(Config):
    """Sizes of the network.

    Args:
        parameter_units, tensor_units, global_units: hidden sizes of the three levels, 1 to 1024.
        time_scales: number of gradient averages, 2 to 8; their decays start at 0.27, 0.9, 0.99 and
            so on.
        gates_read_inputs: whether gates read the Parameter RNN's inputs beside its state.
        gates_read_run: whether gates change with what is read of each tensor's run.

    Raises:
        ValueError: naming the argument, what came and what is allowed.
    """

    parameter_units: int = 6
    tensor_units: int = 12
    global_units: int = 8
    time_scales: int = 3
    gates_read_inputs: bool = False
    gates_read_run: bool = False

    NAME: ClassVar[str] = "equivariant"

    def __post_init__(self) -> None:
        for name, least, most in (
            ("parameter_units", 1, 1024), ("tensor_units", 1, 1024), ("global_units", 1, 1024),
            ("time_scales", 2, 8),
        ):
            value = getattr(self, name)
            check(self, name, is_number(value, int) and least <= value <= most,
                  f"an integer from {least} to {most}")
        for name in ("gates_read_inputs", "gates_read_run"):
            check(self, name, isinstance(getattr(self, name), bool), "True or False")

    @property
    def inputs(self) -> int:
        """Number of inputs of the Parameter RNN for each parameter."""
        return 2 * self.time_scales


@register
@keras.saving.register_keras_serializable(package="hrnn_opt")
class EquivariantRNN(LearnedOptimizer):
    """d = sum_s w_s m_s, with w_s = v_s + (W h)_s and m_s = asinh(a_s / sqrt(v + kappa(t) V)).

    a_s are averages of the gradient at S time scales, v its mean squares and V their mean over the
    tensor; h is the Parameter RNN's state after this gradient. It reads x: |m_s|, m_s m_{s+1} and
    log(v / V) / 4; with `gates_read_inputs`, w_s has (U x)_s besides, of inputs clipped to 2. With
    `gates_read_run`, it has (A r)_s + (B r)_s log(v / V) / 4 besides, clipped likewise: r reads of
    the tensor's run a clock, how far log V has fallen from its largest, and the log of the running
    mean of the slowest |m_s|, which tells gradients that agree from noise.

    The Tensor RNN reads means of x and of h, and what the tensor is, and decides factors of its
    updates and of its shrinkage kappa; the Global RNN reads the mean over tensors, the time, and
    the share of the training that is done where it is known. The two inject biases below them
    (Wichrowska et al. 2017, section 3.2).

    Where the weights add up to less than 0.3, that of the newest average is larger by what is
    missing: with a negative sum, steps would lead uphill where all averages agree.

    Args:
        config: its sizes.
        seed: of the recurrent layers' start values, the same on every backend. W and U start at
            0 and v at (1, 0, ...): before meta-training this is `Direction`.
    """

    Config = EquivariantRNNConfig
    needs = frozenset({"progress"})
    hierarchical = True

    def __init__(
        self, config: EquivariantRNNConfig | None = None, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(config, **kwargs)
        rng = np.random.default_rng(seed)

        def normal(shape, dtype=None):
            del dtype
            return rng.normal(0.0, 0.5 / math.sqrt(shape[0]), shape).astype("float32")

        def weight(name, shape, initializer):
            return self.add_weight(name=name, shape=shape, initializer=initializer)

        c, inputs = self.config, self.config.inputs
        p, t, g, scales = c.parameter_units, c.tensor_units, c.global_units, c.time_scales
        self.parameter_rnn = ParameterRNN(inputs, p, normal, name="parameter_rnn")
        self.tensor_rnn = TensorRNN(p + inputs + _DESCRIPTORS, t, normal, name="tensor_rnn")
        self.global_rnn = GlobalRNN(t + _OF_MODEL, g, normal, name="global_rnn")
        self.tensor_to_parameter = weight("tensor_to_parameter", (t, 3 * p), normal)
        self.global_to_parameter = weight("global_to_parameter", (g, 3 * p), normal)
        self.global_to_tensor = weight("global_to_tensor", (g, 3 * t), normal)
        self.gates = weight("gates", (p, scales), "zeros")
        if c.gates_read_inputs:
            self.input_gates = weight("input_gates", (inputs, scales), "zeros")
        if c.gates_read_run:
            self.run_shortcut = weight("run_shortcut", (_OF_RUN, scales), "zeros")
            self.run_share_gates = weight("run_share_gates", (_OF_RUN, scales), "zeros")
        self.shortcut = weight(
            "shortcut", (scales,),
            lambda shape, dtype=None: np.eye(1, shape[0], dtype="float32")[0])
        self.size_weights = weight("size_weights", (t,), "zeros")
        self.shrinkage_weights = weight("shrinkage_weights", (t,), "zeros")
        start = dict(START)
        # -1 for the newest, then 1 - 0.1^s.
        logits = [start.pop("average_logit"), *(math.log(10.0**s - 1.0) for s in range(1, scales))]
        self.average_logits = weight(
            "average_logits", (scales,), lambda shape, dtype=None: np.array(logits, "float32"))
        for name, value in start.items():
            setattr(self, name, weight(name, (), keras.initializers.Constant(value)))
        self.built = True

    @property
    def meta_parameters(self) -> dict[str, keras.Variable]:
        """Every meta-parameter by name (`"parameter_rnn/gates_kernel"`, say)."""
        named = {}
        for level in ("parameter_rnn", "tensor_rnn", "global_rnn"):
            for variable in getattr(self, level).weights:
                named[f"{level}/{variable.name}"] = variable
        below = {id(variable) for variable in named.values()}
        return named | {v.name: v for v in self.weights if id(v) not in below}

    @property
    def fields(self) -> dict[str, Field]:
        c, of_tensor = self.config, Field("tensor", wide=True)
        of_run = ("tensor_largest_mean_square", "tensor_agreement") if c.gates_read_run else ()
        return {
            **self._moved_fields,
            "tensor_hidden": Field("tensor", (c.tensor_units,)),
            **dict.fromkeys(("tensor_steps", "tensor_mean_square", *of_run), of_tensor),
            "global_hidden": Field("model", (c.global_units,)),
            "model_steps": Field("model", wide=True)}

    @property
    def _moved_fields(self) -> dict[str, Field]:
        c = self.config
        return {"hidden": Field(leading=(c.parameter_units,)),
                "averages": Field(leading=(c.time_scales,)), "mean_square": Field()}

    def step(
        self, layout: Layout, state: State, seen: Seen, active: Any | None = None,
        taken: Any | None = None,
    ) -> tuple[State, Step]:
        """One step; arguments and results as in `LearnedOptimizer.step`."""
        c = self.config
        gradient, steps = accumulators.clipped(seen.gradient), state["tensor_steps"]
        decays = accumulators.decay(steps, _over_features(
            ops.sigmoid(ops.concatenate([
                self.average_logits, ops.expand_dims(ops.convert_to_tensor(self.scale_logit), 0)])),
            steps))
        of_tensor = accumulators.tensor_mean_square(
            layout, state["tensor_mean_square"], gradient, decays[-1])
        floor = of_tensor * accumulators.shrinkage(
            steps, self.log_shrinkage, self.log_early_shrinkage) * self._read(
                "shrinkage", state, LOG_SHRINKAGE_BOUND)
        of_run, run_gates = {}, None
        if c.gates_read_run:
            of_run["tensor_largest_mean_square"] = largest = ops.maximum(
                state["tensor_largest_mean_square"], of_tensor)
            run_gates = layout.to_lanes(
                self._run_gates(steps, of_tensor, largest, state["tensor_agreement"]))
        moved = sweep(
            self._move, layout, {name: state[name] for name in self._moved_fields},
            (gradient, self._parameter_bias(layout, state), layout.to_lanes(decays),
             layout.to_lanes(ops.stack([of_tensor, floor])), run_gates),
            rows=1, sums=(c.parameter_units + c.inputs, 1), active=active, taken=taken)
        children, squares = moved.sums
        children = layout.mean_of_blocks(children)
        if c.gates_read_run:
            slowest = children[c.parameter_units + c.time_scales - 1]
            of_run["tensor_agreement"] = accumulators.running(
                decays[-1], state["tensor_agreement"], slowest)
        upper = {
            **of_run, **self._upper_levels(layout, state, children, seen, active),
            "tensor_steps": steps + 1.0, "tensor_mean_square": of_tensor,
            "model_steps": state["model_steps"] + 1.0}
        size = self._read("size", upper, LOG_SIZE_BOUND)
        step = Step(
            moved.rows[0], size=size, squares=squares[0],
            metric=ops.cast(moved.state["mean_square"], "float32"))
        return self.settled(layout, state, upper, step, active, taken, held=moved.state)

    def _read(self, name: str, state: State, bound: float) -> Any:
        """(..., K) a factor that the Tensor RNN decides, exp(bound tanh(w . h))."""
        weights = ops.expand_dims(getattr(self, f"{name}_weights"), 1)
        read = affine(weights, ops.cast(state["tensor_hidden"], "float32"))[0]
        return ops.exp(bound * ops.tanh(read))

    def _run_gates(self, steps: Any, of_tensor: Any, largest: Any, agreement: Any) -> Any:
        """(2 S, ..., K) weights of the averages, and of log(v / V) / 4 in them, by what is read of
        each tensor's run; arguments (..., K) are as in the state, `agreement` before this step."""
        fallen = of_tensor / ops.where(largest > 0, largest, 1.0)
        agreement = ops.where(steps > 0, agreement, 1.0)
        read = ops.clip(
            ops.stack([
                0.1 * ops.log(1.0 + steps), 0.125 * ops.log(fallen + _LEAST_SHARE**2),
                0.25 * ops.log(agreement + _LEAST_AGREEMENT)]),
            -_LARGEST_INPUT, _LARGEST_INPUT)
        return affine(
            ops.concatenate([self.run_shortcut, self.run_share_gates], axis=1), read)

    def _move(self, state: State, given: list[Any], used_lanes: Any, moves: Any | None) -> Moved:
        """The parameters' level, of all blocks or some, given what comes from above."""
        scales = self.config.time_scales
        gradient, bias, decays, means, run_gates = given
        of_tensor, floor = ops.unstack(means, 2)
        averages = hold(
            moves, accumulators.running(decays[:scales], state["averages"], gradient),
            state["averages"])
        mean_square = hold(
            moves, accumulators.running(
                decays[scales], state["mean_square"], ops.square(gradient)),
            state["mean_square"])
        m = accumulators.scaled(averages, mean_square, floor)
        # Where no gradient has been there is nothing to compare.
        share = mean_square / ops.where(of_tensor > 0, of_tensor, 1.0)
        x = ops.concatenate([
            ops.abs(m), m[:-1] * m[1:],
            ops.expand_dims(0.25 * ops.log(share + _LEAST_SHARE), 0)])
        hidden = hold(moves, self.parameter_rnn(x, state["hidden"], bias), state["hidden"])
        weights = affine(self.gates, hidden) + _over_features(self.shortcut, gradient)
        if self.config.gates_read_inputs:
            weights = weights + affine(
                self.input_gates, ops.clip(x, -_LARGEST_INPUT, _LARGEST_INPUT))
        if run_gates is not None:
            weights = weights + (
                run_gates[:scales] + run_gates[scales:] * ops.clip(
                    x[-1:], -_LARGEST_INPUT, _LARGEST_INPUT))
        # Added up one by one: with a reduction the whole step takes twice as long on JAX.
        missing = ops.maximum(LEAST_WEIGHT - sum(ops.unstack(weights, scales)), 0.0)
        update, *others = ops.unstack(weights * m, scales)
        update = sum(others, start=update + missing * m[0])
        return Moved(
            {"hidden": hidden, "averages": averages, "mean_square": mean_square}, [update],
            [ops.concatenate([block_sums(hidden, used_lanes), block_sums(x, used_lanes)]),
             block_sums(ops.expand_dims(ops.square(update), 0))])

    def _parameter_bias(self, layout: Layout, state: State) -> Any:
        """(3 P, ..., B, 1) bias that the upper levels' states before this step inject."""
        bias = affine(self.tensor_to_parameter, state["tensor_hidden"])
        of_model = affine(self.global_to_parameter, state["global_hidden"])
        return layout.to_lanes(bias + ops.expand_dims(of_model, -1))

    def _upper_levels(
        self, layout: Layout, state: State, children: Any, seen: Seen, active: Any | None
    ) -> State:
        """New states of the Tensor and the Global RNN."""
        descriptors = ops.convert_to_tensor(_descriptors(layout.shapes))
        shape = (_DESCRIPTORS, *tuple(children.shape)[1:])
        descriptors = ops.reshape(
            descriptors, (_DESCRIPTORS, *[1] * (len(shape) - 2), layout.tensors))
        x = ops.concatenate([children, ops.broadcast_to(descriptors, shape)])
        bias = ops.expand_dims(affine(self.global_to_tensor, state["global_hidden"]), -1)
        tensor_hidden = self.tensor_rnn(x, state["tensor_hidden"], bias)
        if active is None:
            mean = ops.mean(tensor_hidden, axis=-1)
        else:
            counts = ops.cast(active, "float32")
            mean = ops.sum(tensor_hidden * counts, axis=-1) / ops.maximum(ops.sum(counts), 1.0)
        clock = 0.1 * ops.log(1.0 + state["model_steps"])
        progress = -ops.ones_like(clock) if seen.progress is None else seen.progress
        known = ops.cast(progress >= 0, "float32") * ops.ones_like(clock)
        done = ops.clip(progress, 0.0, 1.0) * known
        of_model = ops.concatenate([mean, ops.stack([clock, known, done])])
        return {"tensor_hidden": tensor_hidden,
                "global_hidden": self.global_rnn(of_model, state["global_hidden"])}

    def describe(self, state, shape):
        read = float(np.asarray(self.size_weights) @ np.ravel(state["tensor_hidden"]))
        rates = np.full(state["mean_square"].shape, LOG_SIZE_BOUND * np.tanh(read), "float32")
        return {
            "log learning rate": rates,
            "parameter RNN norm": np.linalg.norm(state["hidden"], axis=0),
            "tensor RNN norm": np.linalg.norm(state["tensor_hidden"]),
            "global RNN norm": np.linalg.norm(state["global_hidden"])}


def _over_features(vector: Any, like: Any) -> Any:
    """(F,) as (F, 1, ...), broadcastable over what `like` has the axes of."""
    return ops.reshape(vector, (-1,) + (1,) * len(like.shape))


def _descriptors(shapes: Any) -> np.ndarray:
    """(4, K) what each tensor is, in numbers of about 1."""
    columns = []
    for k, shape in enumerate(shapes):
        matrix = len(shape) > 1
        rows = math.prod(shape[:-1]) if matrix else 1
        columns.append((
            math.log(rows) / 5.0, math.log(shape[-1] if shape else 1) / 5.0, float(matrix),
            k / max(1, len(shapes) - 1)))
    return np.array(columns, "float32").T
