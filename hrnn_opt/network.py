"""The hierarchical RNN: its meta-parameters and its step, each in one place.

The step is a pure function of (meta-parameters, state, gradient), written once, in `keras.ops`.
`HierarchicalLOpt` calls it inside Keras training; meta-training calls it under `jax.grad`, `vmap`
and `scan`. Section and equation numbers are those of Wichrowska et al., "Learned Optimizers that
Scale and Generalize", ICML 2017.

Dimension letters are those of `base.py`; F features.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from hrnn_opt import backend
from hrnn_opt.base import PER_MODEL, PER_TENSOR, Network, State, Step
from hrnn_opt.config import HierarchicalRNNConfig
from hrnn_opt.layers import GlobalRNN, ParameterRNN, TensorRNN, affine
from hrnn_opt.layout import Layout, block_sums
from hrnn_opt.rotation import rotation_of

# Constants of the released program.
CONSTANT_INPUT_DECAY = 0.89
CONSTANT_SCALE_DECAY = 0.93
LEARNED_LOG_RATE_BOUND = 33.0
NORMALIZED_LOG_RATE_BOUND = 6.0
TENSOR_LOG_STEP_BOUND = math.log(8.0)
# Of the factor that alignment steers, either way.
LOG_STEP_SIZE_BOUND = math.log(1e4)
# How alignment steers it before training. At rates that train networks well, the cosine of a
# gradient with the way to the average is about the target, early and late; the slope tells a good
# rate from half or twice of it; the gain is a power of the number of steps. Control comes after a
# delay: the way lags behind the rate, which without it would shoot far beyond what suits in the
# first steps and saturate units, of which the cosine does not tell that steps are too large. It
# wanes after so many steps, sooner where it lets them grow, as later they must be smaller. For
# what the first steps led to must not be kept for ever, they also fall with a power of time.
_ALIGNMENT_START = {
    "target": -0.02, "slope": 20.0, "gain": 2.0, "log_delay": math.log(50.0),
    "log_steps": math.log(5000.0), "log_growth_steps": math.log(500.0), "decay": 0.2}
# Inputs of a unit at which `width_exponent` changes nothing.
REFERENCE_WIDTH = 256
# Squares of larger gradients overflow 32-bit floats.
_LARGEST_GRADIENT = 1e18
_MEAN_SQUARE_EPSILON = 1e-16
# Of the released program: what gradients of 0 would leave of mean squares.
_MEAN_SQUARE_FLOOR = 1e-12
# What smaller ones would be divided by leaves 32 bits in meta-gradients.
_SMALLEST_MEAN_SQUARE = 1e-20
# Fields of a `State` that the parameters' level moves.
_MOVED = ("hidden", "averages", "mean_squares", "input_decay", "scale_decay", "log_learning_rate")
# Parameters of a model that are moved at a time: as many as what is computed of them on the way
# fits into a processor's cache; on an accelerator, as many as keep it busy; and operation by
# operation, as many as make what it takes to call one small.
_AT_ONCE = {"cpu": 2**14, "accelerator": 2**20, "eager": 2**15}
# Spread of the direction's and the decays' read-outs, and biases of the decays, before training.
_PAPER_START = {"direction": 0.5, "read_out": 0.5, "input_decay": 2.2, "scale_decay": 3.2}
# With averaging, momentum is the average's business: the start is close to the newest gradient over
# its slow root mean square, which is known to train well, so that meta-training goes on from there.
_AVERAGING_START = {"direction": 0.05, "read_out": 0.1, "input_decay": -1.0, "scale_decay": 4.6}
# asinh(x) / x in powers of x^2, for |x| < 1/2: interpolated at Chebyshev's nodes.
_ASINH_SERIES = (1.0, -0.16666134, 0.07482421, -0.04257084, 0.01988876)
# What is read from the Parameter RNN's hidden state, where the config has a use of it.
_READ_OUTS = ("direction", "attention", "learning_rate", "input_decay", "scale_decay")


def move_average(
    averaging: float, true: Any, offset: Any, move: Any, weight: Any
) -> tuple[Any, Any]:
    """One step with averaging (schedule-free learning, Defazio et al. 2024, equations 3 to 5).

    With z the fast iterate, x its average and y = (1 - averaging) z + averaging x the location of
    gradients: z <- z - move, x <- x + weight (z - x).

    Args:
        averaging: of the config.
        true, offset: x, and x - y.
        move: how far z moves.
        weight: of the new z in the average.

    Returns:
        The new x, and the new x - y.
    """
    share = 1.0 - averaging
    behind = offset / share + move  # x - z
    return true - weight * behind, share * (1.0 - weight) * behind


def _roots(x: Any, count: int) -> Any:
    """(count, ...): x, its square root, the square root of that and so on."""

    @ops.custom_gradient
    def roots(x: Any) -> Any:
        powers = [x]
        for _ in range(count - 1):
            powers.append(ops.sqrt(powers[-1]))

        def backward(upstream: Any) -> Any:
            # d x^p / dx = p x^p / x. It is 0 at 0, where decays start: inf times 0 would be NaN.
            above_zero = x > 1e-30
            total = sum(0.5**s * upstream[s] * power for s, power in enumerate(powers))
            return ops.where(above_zero, total / ops.where(above_zero, x, 1.0), 0.0)

        return ops.stack(powers), backward

    return roots(x)


@ops.custom_gradient
def _asinh(x: Any) -> Any:
    """asinh at 0.6 times the cost of the backends' own, which XLA spends a third of the step on.
    Exact to rounding up to |x| = 1e9, where it stays."""
    size = ops.minimum(ops.abs(x), 1e9)
    square = size * size

    def backward(upstream: Any) -> Any:
        return upstream * ops.rsqrt(1.0 + square)

    series = 0.0
    for coefficient in _ASINH_SERIES[::-1]:
        series = series * square + coefficient
    logarithm = ops.where(x < 0, -1.0, 1.0) * ops.log(size + ops.sqrt(1.0 + square))
    return ops.where(size < 0.5, x * series, logarithm), backward


def _straight_through_clip(x: Any, bound: float) -> Any:
    """Clip to +-bound with the gradient of the identity."""
    return x + ops.stop_gradient(ops.clip(x, -bound, bound) - x)


def width_factors(
    config: HierarchicalRNNConfig, shapes: Sequence[Sequence[int]]
) -> np.ndarray:
    """(K,) factor of each tensor's updates by the number of inputs n that its units have, all axes
    but the last: (n / 256)^-width_exponent, and 1 for vectors.

    Updates of one size move the sum in a unit by more, the more inputs there are to it (Yang et al.
    2021, "Tensor Programs V", where Adam's rate is to fall as 1 / n).
    """
    return np.array([
        (math.prod(shape[:-1]) / REFERENCE_WIDTH) ** -config.width_exponent
        if len(shape) > 1 else 1.0 for shape in shapes], "float32")


class _Moved(NamedTuple):
    """What the parameters' level makes of some blocks, in a step.

    Attributes:
        state: with the fields in `_MOVED`; the others are None.
        updates: (..., B, L) each, before they are scaled: that of the parameters, and with
            lookahead that of the attended location.
        children: (P + F, ..., B) sums over lanes of hidden states and inputs.
        squares: (updates, ..., B) likewise of what the updates are to be scaled by.
    """

    state: State
    updates: Sequence[Any]
    children: Any
    squares: Any


def _at_once() -> int:
    return _AT_ONCE["accelerator" if backend.on_accelerator() else "cpu"]


def _blocks_at_once(blocks: int, lanes: int) -> int:
    """How many blocks a turn moves: a divisor of all of them where there is one about as large as
    wanted, so that no turn has blocks that another one has moved."""
    wanted = max(1, round(_at_once() / lanes))
    even = [n for n in range(-(-wanted // 2), 2 * wanted) if blocks % n == 0]
    return min(even, key=lambda n: abs(n - wanted), default=min(wanted, blocks))


def _in_turn(layout: Layout, gradient: Any) -> bool:
    """Whether a step moves some blocks at a time: compiled by XLA, elsewhere a loop that updates
    the state copies it at each turn; one model that is not small and lies on one device."""
    return (
        backend.compiled_by_xla() and len(gradient.shape) == 2
        and layout.sharding(3) is None and layout.blocks * layout.lanes > _at_once())


def _in_pieces(gradient: Any) -> bool:
    """Whether a step works through the blocks in pieces: on PyTorch, where Keras runs it operation
    by operation."""
    if keras.backend.backend() != "torch" or len(gradient.shape) != 2:
        return False
    import torch

    return (gradient.numel() > _AT_ONCE["eager"] and gradient.device.type == "cpu"
            and not torch.compiler.is_compiling())


@keras.saving.register_keras_serializable(package="hrnn_opt")
class HierarchicalRNN(Network):
    """The meta-parameters of the learned optimizer, and the step that they define.

    Args:
        config: the switches.
        seed: of the start values (section "start values" of the released program); the same seed
            gives the same numbers on every backend.

    Example:

    >>> network = HierarchicalRNN(HierarchicalRNNConfig(), seed=0)
    >>> layout = Layout([(3, 2), (2,)])
    >>> log_rates = np.full((layout.blocks, layout.lanes), np.log(1e-3), "float32")
    >>> state = network.init_state(layout, log_rates)
    >>> state, step = network.step(layout, state, layout.flatten(gradients))

    To use other numbers for the meta-parameters (to differentiate by them, say), pass them to
    `stateless_step` and `stateless_init_state`.
    """

    def __init__(
        self, config: HierarchicalRNNConfig | None = None, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(config or HierarchicalRNNConfig(), **kwargs)
        config = self.config
        rng = np.random.default_rng(seed)

        def normal(shape, dtype=None, scale=0.5, mean=0.0):
            del dtype
            return rng.normal(mean, scale / math.sqrt(shape[0]), shape).astype("float32")

        def weight(name, shape, initializer):
            return self.add_weight(name=name, shape=shape, initializer=initializer)

        def start(name, units):
            if not config.learned_start_vectors:
                return None
            return weight(
                name, (units,),
                lambda shape, dtype=None: rng.uniform(-1, 1, shape).astype("float32"))

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

        start_values = _AVERAGING_START if config.averaging else _PAPER_START
        read_out = start_values["read_out"]
        direction = normal((units,), scale=start_values["direction"])
        shortcut = normal((config.time_scales,), scale=0.1, mean=0.25)
        if config.averaging:
            # Drawn all the same, so that what is drawn after it does not depend on the switch.
            shortcut = np.eye(1, config.time_scales, dtype="float32")[0]
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
        if config.learnable_input_decay and config.time_scales > 1:
            self.input_decay_weights = weight(
                "input_decay_weights", (units,), functools.partial(normal, scale=read_out))
            self.input_decay_bias = weight(
                "input_decay_bias", (), keras.initializers.Constant(start_values["input_decay"]))
        if config.learnable_scale_decay:
            self.scale_decay_weights = weight(
                "scale_decay_weights", (units,), functools.partial(normal, scale=read_out))
            self.scale_decay_bias = weight(
                "scale_decay_bias", (), keras.initializers.Constant(start_values["scale_decay"]))
        self.learning_rate_weights = weight("learning_rate_weights", (units,), "zeros")
        self.learning_rate_bias = weight("learning_rate_bias", (), "zeros")
        if config.keeps_log_learning_rate:
            self.learning_rate_momentum_logit = weight(
                "learning_rate_momentum_logit", (), keras.initializers.Constant(3.2))
        if config.tensor_step_size:
            self.tensor_step_size_weights = weight(
                "tensor_step_size_weights", (config.tensor_units,), "zeros")
        if config.alignment_control:
            for name, value in _ALIGNMENT_START.items():
                setattr(self, f"alignment_{name}", weight(
                    f"alignment_{name}", (), keras.initializers.Constant(value)))
        if config.keeps_log_learning_rate and config.step_size == "learned":
            self.step_size_offset = weight(
                "step_size_offset", (), keras.initializers.Constant(-1.0))
        self.built = True

    # The meta-parameters.

    @property
    def meta_parameters(self) -> dict[str, keras.Variable]:
        """Every meta-parameter by name (`"parameter_rnn/gates_kernel"`, say): 8,349 numbers."""
        named = {}
        for prefix in ("parameter_rnn", "tensor_rnn", "global_rnn"):
            if hasattr(self, prefix):
                for variable in getattr(self, prefix).weights:
                    named[f"{prefix}/{variable.name}"] = variable
        below = {id(variable) for variable in named.values()}
        return named | {v.name: v for v in self.weights if id(v) not in below}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> HierarchicalRNN:
        return cls(HierarchicalRNNConfig.from_dict(config["config"]), name=config.get("name"))

    # The state before the first step.

    def init_state(
        self, layout: Layout, log_learning_rate: Any, parameters: Any | None = None
    ) -> State:
        """The state before the first step.

        Args:
            layout: where the parameters lie.
            log_learning_rate: (..., B, L) initial log learning rates (zeros for
                `step_size="normalized"`).
            parameters: (..., B, L) start values of the parameters; needed with lookahead or
                averaging only.

        Returns:
            The state; every average and decay is 0, every RNN at its learned start vector.
        """
        config = self.config
        rows = tuple(log_learning_rate.shape)
        models = rows[:-2]

        def start(name, units, shape):
            if not units:
                return None
            if not config.learned_start_vectors:
                return ops.zeros((units, *shape))
            vector = ops.reshape(getattr(self, name), (units,) + (1,) * len(shape))
            # In memory of its own, to be written over.
            return ops.copy(ops.broadcast_to(vector, (units, *shape)))

        scales = config.time_scales
        rotation = rotation_of(layout.shapes, config.rotation_limit)
        moments, axes = rotation.init_state(models) if rotation else (None, None)
        return State(
            hidden=start("parameter_start", config.parameter_units, rows),
            averages=ops.zeros((scales, *rows)) if scales > 1 else None,
            mean_squares=ops.zeros((scales, *rows)),
            input_decay=ops.zeros(rows) if scales > 1 else None,
            scale_decay=ops.zeros(rows),
            log_learning_rate=(
                ops.convert_to_tensor(log_learning_rate, "float32")
                if config.keeps_log_learning_rate else None),
            tensor_hidden=start("tensor_start", config.tensor_units,
                                (*models, layout.tensors)),
            global_hidden=start("global_start", config.global_units, models),
            update_scale=(
                ops.zeros((2, *models, layout.tensors)) if config.update_scale_decay else None),
            steps=ops.zeros(models) if config.averaging or rotation else None,
            log_step_size=ops.zeros(models) if config.alignment_control else None,
            moments=moments,
            axes=axes,
            true_parameters=(
                ops.convert_to_tensor(parameters) if config.attends else None),
        )

    # One step.

    def compile_step(self) -> None:
        if keras.backend.backend() == "torch":
            self._moved = backend.torch_program(self._moved)

    def step(
        self, layout: Layout, state: State, gradient: Any, active: np.ndarray | None = None,
        taken: Any | None = None, offset: Any | None = None,
    ) -> tuple[State, Step]:
        """One step of the learned optimizer.

        Args:
            layout: where the parameters lie.
            state: from `init_state` or the step before.
            gradient: (..., B, L) gradient at the attended location.
            active: (K,) booleans, at least one true: the tensors that have a gradient at this step.
                The others stay as they are, and the Global RNN does not see them. None: all.
            taken: () boolean: whether the step is taken. If not, the new state is the old one, and
                the step is not to be used. The old state may be overwritten by the new one, on
                PyTorch. None: it is taken, and the old state stays.
            offset: (..., B, L) with alignment control, the average less the location of the
                gradient, as in `move_average`.

        Returns:
            The new state (with `true_parameters` as they were: the caller moves them, since the
            learning rate and weight decay are the caller's), and the step to take.
        """
        config = self.config
        gradient = ops.clip(gradient, -_LARGEST_GRADIENT, _LARGEST_GRADIENT)
        moments, axes = state.moments, state.axes
        rotation = rotation_of(layout.shapes, config.rotation_limit)

        def turned(buffer: Any, back: bool = False) -> Any:
            if rotation is None or buffer is None:
                return buffer
            return layout.flatten(rotation.turn(axes, layout.unflatten(buffer), back))

        if rotation:
            gradients = layout.unflatten(gradient)
            moments, axes = rotation.observe(moments, axes, gradients, state.steps)
            gradient = layout.flatten(rotation.turn(axes, gradients, cleaned=True))
            offset = turned(offset) if config.alignment_control else None
        of_parameters = State(**{field: getattr(state, field) for field in _MOVED})
        arguments = (
            of_parameters, gradient, self._parameter_bias(layout, state),
            self._mean_log_rate(layout, state), layout.used_lanes)
        # Where it lies, the new state takes the place of the old one.
        guarded = taken if active is None else None
        in_pieces = _in_pieces(gradient)
        in_place = guarded is not None and (in_pieces or _in_turn(layout, gradient))
        if in_pieces:
            moved = self._moved_in_pieces(*arguments, guarded)
        elif in_place:
            moved = self._moved_in_turn(*arguments, guarded)
        else:
            moved = self._moved(*arguments)
        tensor_hidden, global_hidden = self._upper_levels(
            state, layout.mean_of_blocks(moved.children), active)
        updates, update_scale = self._sized(layout, state, moved, tensor_hidden)
        steps, weight = self._averaging(state)
        log_step_size = self._log_step_size(
            layout, state, gradient, offset, moved.state.mean_squares, active)

        new_state = moved.state._replace(
            tensor_hidden=tensor_hidden, global_hidden=global_hidden, update_scale=update_scale,
            steps=steps, log_step_size=log_step_size, moments=moments, axes=axes,
            true_parameters=state.true_parameters)
        update, attended_update = (
            turned(x, back=True) for x in (updates if config.lookahead else (*updates, None)))
        if active is not None:
            new_state, update, attended_update = self._keep_inactive(
                layout, active, state, new_state, update, attended_update)
        if taken is not None:
            kept = (*PER_TENSOR, *PER_MODEL) if in_place else State._fields
            new_state = self._keep_unless(taken, state, new_state, kept)
        return new_state, Step(update, attended_update, weight)

    def _moved(
        self, state: State, gradient: Any, bias: Any, mean_log_rate: Any, used_lanes: Any
    ) -> _Moved:
        """The parameters' level, of all blocks or some, given what comes from above."""
        before = state
        state = State(*(None if x is None else ops.cast(x, "float32") for x in before))
        averages, mean_squares, scaled = self._scaled_averages(state, gradient)
        x = self._inputs(state, scaled, mean_squares, mean_log_rate)
        hidden = self.parameter_rnn(x, state.hidden, *([] if bias is None else [bias]))
        read = self._read_outs(hidden)
        log_rate, log_learning_rate = self._learning_rate(state, read)
        names = ("direction", "attention") if self.config.lookahead else ("direction",)
        updates, squares = zip(*(
            self._unscaled(self._direction(read, scaled, name), log_rate, name)
            for name in names))
        after = state._replace(
            hidden=hidden, averages=averages, mean_squares=mean_squares,
            input_decay=self._input_decay(state, read),
            scale_decay=self._scale_decay(state, read), log_learning_rate=log_learning_rate)
        return _Moved(
            State(*(None if x is None else ops.cast(x, old.dtype)
                    for x, old in zip(after, before))),
            updates,
            block_sums(ops.concatenate([hidden, x]), used_lanes),
            block_sums(ops.stack(squares), used_lanes))

    def _moved_in_turn(
        self, state: State, gradient: Any, bias: Any, mean_log_rate: Any, used_lanes: Any,
        taken: Any,
    ) -> _Moved:
        """As `_moved`, some blocks at a time: what is computed on the way then stays in a
        processor's cache, and takes no memory to speak of. Unless `taken`, all stays as it is.

        The condition is also what has XLA work in place: a branch's operands are slices that are
        made before it, and what it gives is written after it, so that nothing reads the whole state
        while it changes, and no copy of it is needed.
        """
        config = self.config
        blocks, lanes = gradient.shape
        size = _blocks_at_once(blocks, lanes)
        fields = [field for field in _MOVED if getattr(state, field) is not None]
        updates = 1 + config.lookahead
        given = [gradient, bias, mean_log_rate,
                 None if used_lanes is None else ops.expand_dims(used_lanes, -1)]

        def some(first: Any, x: Any) -> Any:
            if x is None or x.shape[-2] == 1:
                return x
            start = (0,) * (len(x.shape) - 2) + (first, 0)
            return ops.slice(x, start, (*x.shape[:-2], size, x.shape[-1]))

        def turn(i: Any, carry: list[Any]) -> list[Any]:
            # The last turn has as many blocks as the others: the first of them are done.
            first = ops.minimum(i * size, blocks - size)
            before = [some(first, x) for x in carry]
            of_turn = [some(first, x) for x in given]

            def move() -> list[Any]:
                part = State(**dict(zip(fields, before)))
                *others, used = of_turn
                moved = self._moved(part, *others, None if used is None else used[..., 0])
                after = [getattr(moved.state, field) for field in fields] + [
                    ops.stack(moved.updates), ops.expand_dims(moved.children, -1),
                    ops.expand_dims(moved.squares, -1)]
                if blocks % size == 0:
                    return after
                new = ops.expand_dims(ops.arange(size) >= i * size - first, -1)
                return [ops.where(new, x, old) for x, old in zip(after, before)]

            after = ops.cond(taken, move, lambda: before)
            return [
                ops.slice_update(x, (0,) * (len(x.shape) - 2) + (first, 0), part)
                for x, part in zip(carry, after)]

        *kept, directions, children, squares = ops.fori_loop(0, -(-blocks // size), turn, [
            *(getattr(state, field) for field in fields),
            ops.zeros((updates, blocks, lanes)),
            ops.zeros((config.parameter_units + config.inputs, blocks, 1)),
            ops.zeros((updates, blocks, 1))])
        return _Moved(
            state._replace(**dict(zip(fields, kept))), ops.unstack(directions, updates),
            children[..., 0], squares[..., 0])

    def _moved_in_pieces(
        self, state: State, gradient: Any, bias: Any, mean_log_rate: Any, used_lanes: Any,
        taken: Any | None,
    ) -> _Moved:
        """As `_moved`, some blocks after the others, for the same reasons as in turn. The new state
        is written over the old one where the caller says whether the step is `taken`, and nothing
        is written if it is not; else it is a state of its own."""
        config = self.config
        after = state
        if taken is None:
            after = State(*(None if x is None else ops.copy(x) for x in state))
        if used_lanes is not None:
            used_lanes = ops.convert_to_tensor(used_lanes)
        blocks, lanes = gradient.shape
        size = max(1, _AT_ONCE["eager"] // lanes)
        updates = [ops.zeros((blocks, lanes)) for _ in range(1 + config.lookahead)]
        children = ops.zeros((config.parameter_units + config.inputs, blocks))
        squares = ops.zeros((len(updates), blocks))
        for first in range(0, blocks, size):
            def some(x: Any, first: int = first) -> Any:
                whole = x is None or x.shape[-2] == 1
                return x if whole else x[..., first : first + size, :]

            moved = self._moved(
                State(*map(some, state)), *map(some, (gradient, bias, mean_log_rate)),
                None if used_lanes is None else used_lanes[first : first + size])
            if taken is None or taken:
                for whole, part in zip(after, moved.state):
                    if whole is not None:
                        some(whole).copy_(part)
            for whole, part in zip(updates, moved.updates):
                some(whole).copy_(part)
            children[:, first : first + size] = moved.children
            squares[:, first : first + size] = moved.squares
        return _Moved(after, updates, children, squares)

    def _scaled_averages(self, state: State, gradient: Any) -> tuple[Any, Any, Any]:
        """Momentum at several time scales (3.3.2) and dynamic input scaling (3.3.3).

        d_1 = b_g, d_{s+1} = sqrt(d_s); average_s <- (1 - d_s) g + d_s average_s;
        lambda_s <- (1 - b_l)(average_s^2 + 1e-12) + b_l lambda_s;
        m_s = asinh(average_s / sqrt(lambda_s + 1e-16)). Both decays are 0 before the first step,
        so that averages and mean squares start at their first values.
        """
        if self.config.time_scales == 1:
            new_averages, averages = None, ops.expand_dims(gradient, 0)
        else:
            decay = _roots(state.input_decay, self.config.time_scales)
            averages = new_averages = (
                (1.0 - decay) * self._for_scales(gradient) + decay * state.averages)
        kept = self._for_scales(state.scale_decay)
        squares = ops.square(averages) + _MEAN_SQUARE_FLOOR
        mean_squares = (1.0 - kept) * squares + kept * state.mean_squares
        scaled = _asinh(averages * ops.rsqrt(mean_squares + _MEAN_SQUARE_EPSILON))
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
            inputs.append(ops.expand_dims(state.log_learning_rate, 0) - mean_log_rate)
        return ops.concatenate(inputs) if len(inputs) > 1 else inputs[0]

    def _mean_log_rate(self, layout: Layout, state: State) -> Any | None:
        """(1, ..., B, 1) or (1, ..., 1, 1): what log learning rates are relative to (3.3.5)."""
        if not self.config.feeds_relative_learning_rate:
            return None
        rates = ops.expand_dims(ops.cast(state.log_learning_rate, "float32"), 0)
        mean = layout.tensor_mean(rates)
        if self.config.relative_learning_rate == "tensor":
            return layout.to_lanes(mean)
        return layout.model_mean(mean)[..., None, None]

    def _parameter_bias(self, layout: Layout, state: State) -> Any | None:
        """(3 P, ..., B, 1) bias that the upper levels' states before this step inject (3.2)."""
        if not self.config.tensor_units:
            return None
        bias = affine(self.tensor_to_parameter_kernel, state.tensor_hidden,
                      self.tensor_to_parameter_bias)
        if self.config.global_units:
            from_global = affine(self.global_to_parameter_kernel, state.global_hidden,
                                 self.global_to_parameter_bias)
            bias = bias + ops.expand_dims(from_global, -1)
        return layout.to_lanes(bias)

    def _upper_levels(
        self, state: State, children: Any, active: np.ndarray | None
    ) -> tuple[Any, Any]:
        """New states of the Tensor and the Global RNN (3.2): each reads means over its children,
        (P + F, ..., K) those over each tensor's parameters of their hidden states and inputs."""
        config = self.config
        if not config.tensor_units:
            return None, None
        bias = None
        if config.global_units:
            bias = ops.expand_dims(
                affine(self.global_to_tensor_kernel, state.global_hidden,
                       self.global_to_tensor_bias), -1)
        tensor_hidden = self.tensor_rnn(children, state.tensor_hidden, bias)
        if not config.global_units:
            return tensor_hidden, None
        if active is None:
            mean = ops.mean(tensor_hidden, axis=-1)
        else:
            mean = ops.mean(ops.take(tensor_hidden, np.flatnonzero(active), axis=-1), axis=-1)
        return tensor_hidden, self.global_rnn(mean, state.global_hidden)

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
        bound = (NORMALIZED_LOG_RATE_BOUND if self.config.step_size == "normalized"
                 else LEARNED_LOG_RATE_BOUND)
        log_rate = _straight_through_clip(state.log_learning_rate + change, bound)
        momentum = ops.sigmoid(self.learning_rate_momentum_logit)
        return log_rate, momentum * state.log_learning_rate + (1.0 - momentum) * log_rate

    def _unscaled(self, direction: Any, log_rate: Any, name: str) -> tuple[Any, Any]:
        """(..., B, L) update before it is scaled by its tensor's RMS, and the squares whose mean
        that is the root of: see `_sized`."""
        config = self.config
        if not config.dynamic_output_scale:
            return 2.0 * ops.sigmoid(log_rate) * direction, ops.square(direction)
        if config.step_size == "learned":
            if name == "direction":
                log_rate = log_rate + self.step_size_offset
            return ops.exp(log_rate) * direction, ops.square(direction)
        update = ops.exp(log_rate) * direction
        return update, ops.square(update)

    def _sized(
        self, layout: Layout, state: State, moved: _Moved, tensor_hidden: Any
    ) -> tuple[list[Any], Any]:
        """(..., B, L) updates: directions d at their step sizes; and the new update scale.

        learned: exp(eta + c_step) d / RMS(d) (the attended location has no offset);
        normalized: u / RMS(u) with u = exp(eta) d, where with an update scale the mean square of u
        is a running one, corrected for its start as Adam's are (where updates are bounded, that of
            u itself if it is larger); times factors of the tensor's and the model's;
        without dynamic output scale: 2 sigmoid(.) d.
        """
        config = self.config
        if not config.dynamic_output_scale:
            return list(moved.updates), None
        factor, scales, sized = 1.0, [], []
        if config.step_size == "normalized":
            factor = self._tensor_factor(layout, tensor_hidden)
        if config.alignment_control:
            factor = factor * ops.expand_dims(ops.exp(state.log_step_size), -1)
        mean_squares = ops.unstack(layout.mean_of_blocks(moved.squares), len(moved.updates))
        for update, mean_square in zip(moved.updates, mean_squares):
            if config.update_scale_decay:
                decay = config.update_scale_decay
                scale = decay * state.update_scale + (1.0 - decay) * ops.stack(
                    [mean_square, ops.ones_like(mean_square)])
                newest, mean_square = mean_square, scale[0] / scale[1]
                if config.bounded_updates:
                    mean_square = ops.maximum(mean_square, newest)
                scales.append(scale)
            sized.append(update * layout.to_lanes(
                factor * ops.rsqrt(mean_square + _MEAN_SQUARE_EPSILON)))
        return sized, scales[0] if scales else None

    def _tensor_factor(self, layout: Layout, tensor_hidden: Any) -> Any:
        """Factor of each tensor's updates, (..., K) or (K,): that of its width, times one that the
        Tensor RNN decides, exp(log(8) tanh(w . h1)), where the config has one."""
        factor = ops.convert_to_tensor(width_factors(self.config, layout.shapes))
        if not self.config.tensor_step_size:
            return factor
        read = affine(ops.expand_dims(self.tensor_step_size_weights, 1), tensor_hidden)[0]
        return factor * ops.exp(TENSOR_LOG_STEP_BOUND * ops.tanh(read))

    def _averaging(self, state: State) -> tuple[Any, Any]:
        """(...) steps taken, and the weight of the new iterate in the average of all: an iterate
        counts in proportion to its number."""
        if state.steps is None:
            return None, None
        steps = state.steps + 1.0
        return steps, 2.0 / (steps + 1.0) if self.config.averaging else None

    def _log_step_size(
        self, layout: Layout, state: State, gradient: Any, offset: Any, mean_squares: Any,
        active: np.ndarray | None,
    ) -> Any | None:
        """(...) log of the factor of all updates, after this step.

        At step t, s <- s + gain / ((t + delay) (1 + t / steps)) tanh(slope (c - target))
        - decay / (t + growth_steps). The steps are those of growth where the tanh is positive, and
        c = g . d / sqrt(sum_i g_i^2 / sqrt(v_i)  sum_i sqrt(v_i) d_i^2), with d = x - y and
        v = lambda_1.

        d, the way from the fast iterate to the average (`move_average`), is made of earlier
        updates, and the gradient's noise is new, so that their product has no bias. While the
        average only lags behind, gradients point along d: c is positive, and larger steps would
        have gone further. Once the fast iterate strays about a valley by noise, more so the larger
        its steps are, gradients point back to the average: it is negative.

        c is the cosine in the metric that steps are made in, of gradients over their root mean
        square: each entry then counts by how far it moves, not by how steep it is. Those whose
        gradients are rarely felt hardly count, however far they have strayed.
        """
        if not self.config.alignment_control:
            return None
        if active is not None:
            offset = ops.where(
                layout.to_lanes(ops.convert_to_tensor(np.asarray(active, bool))), offset, 0.0)
        # With the floor, the metric of gradients below its root would not be theirs.
        usual = ops.cast(mean_squares[0], "float32") - _MEAN_SQUARE_FLOOR
        metric = ops.sqrt(ops.sqrt(ops.maximum(usual, _SMALLEST_MEAN_SQUARE)))
        # Squares of what is far from 1 leave 32 bits.
        largest = ops.max(ops.abs(gradient), axis=(-2, -1), keepdims=True)
        scaled = gradient / ops.where(largest > 0, largest, 1.0) / metric
        way = offset * metric
        product, *squares = (
            ops.sum(block_sums(a * b, layout.used_lanes), axis=-1)
            for a, b in ((scaled, way), (scaled, scaled), (way, way)))
        norms = squares[0] * squares[1]
        known = norms > 0
        cosine = product * ops.rsqrt(ops.where(known, norms, 1.0))
        step = state.steps + 1.0
        push = ops.tanh(self.alignment_slope * (cosine - self.alignment_target))
        growth_steps = ops.exp(self.alignment_log_growth_steps)
        delay = ops.exp(self.alignment_log_delay)
        steps = ops.where(push > 0, growth_steps, ops.exp(self.alignment_log_steps))
        change = (self.alignment_gain / ((step + delay) * (1.0 + step / steps)) * push
                  - self.alignment_decay / (step + growth_steps))
        return ops.clip(
            state.log_step_size + ops.where(known, change, 0.0),
            -LOG_STEP_SIZE_BOUND, LOG_STEP_SIZE_BOUND)

    def _input_decay(self, state: State, read: dict[str, Any]) -> Any:
        if self.config.time_scales == 1:
            return None
        if not self.config.learnable_input_decay:
            return ops.full_like(state.input_decay, CONSTANT_INPUT_DECAY)
        return ops.sigmoid(read["input_decay"] + self.input_decay_bias)

    def _scale_decay(self, state: State, read: dict[str, Any]) -> Any:
        if not self.config.learnable_scale_decay:
            return ops.full_like(state.scale_decay, CONSTANT_SCALE_DECAY)
        return ops.sigmoid(read["scale_decay"] + self.scale_decay_bias)
