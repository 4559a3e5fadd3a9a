"""`HierarchicalLOpt`: the hierarchical RNN as a Keras optimizer, on every backend."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.optimizers import schedules

from hrnn_opt import weights as weights_lib
from hrnn_opt.config import HierarchicalRNNConfig
from hrnn_opt.layout import Layout
from hrnn_opt.network import HierarchicalRNN, State

STATE_DTYPES = ("float32", "bfloat16")


@keras.saving.register_keras_serializable(package="hrnn_opt")
class HierarchicalLOpt(keras.optimizers.Optimizer):
    """A learned optimizer: a hierarchical recurrent network that has been trained to train others.

    Each parameter has a small recurrent network, which reads gradient averages at several time
    scales and decides a direction, a step size and its own decays; a network for each tensor and
    one for the model coordinate them.

    Args:
        weights: what the optimizer has learned: the name of shipped weights, the path of a weights
            file, `"untrained"` (random start values), or a `HierarchicalRNN`.
        initial_learning_rate: where the log learning rate of every parameter starts: a positive
            number, or a range (low, high) from which they are drawn log-uniformly, half of the
            randomness shared by a tensor (as in meta-training). Only for weights of
            `step_size="learned"`. None: what the weights want.
        lookahead: take gradients at an attended location ahead of the parameters. None: as the
            weights were meta-trained; False turns it off. While training, the model's variables
            hold that location: see `SwapLookahead` and `finalize_variable_values`.
        learning_rate: multiplies the step; a float, a schedule or a callable, as in any Keras
            optimizer. None: what the weights want.
        state_dtype: `"float32"`, or `"bfloat16"` for half the memory. True parameters, with
            lookahead, stay in at least 32 bits.
        seed: of the drawn initial learning rates and of `"untrained"` weights. None: drawn, so
            that `keras.utils.set_random_seed` decides it.
        weight_decay: decoupled; each step shrinks the parameters by weight_decay * learning_rate.
        clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum, ema_overwrite_frequency,
            loss_scale_factor, gradient_accumulation_steps, name: as in every Keras optimizer. The
            moving average is of the true parameters.

    Attributes:
        skipped_steps: number of steps left out because a gradient held a number that is not
            finite. Such a step leaves parameters and state as they were.

    Raises:
        ValueError: naming the argument that is not allowed.

    Example:

    >>> model.compile(optimizer=HierarchicalLOpt(), loss="sparse_categorical_crossentropy")
    >>> model.fit(x, y)

    Reference:
        Wichrowska et al., "Learned Optimizers that Scale and Generalize", ICML 2017
        (https://arxiv.org/abs/1703.04813).
    """

    def __init__(
        self,
        weights: Any = "default",
        initial_learning_rate: float | tuple[float, float] | None = None,
        lookahead: bool | None = None,
        learning_rate: Any = None,
        state_dtype: str = "float32",
        seed: int | None = None,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str = "hierarchical_lopt",
    ) -> None:
        if state_dtype not in STATE_DTYPES:
            raise ValueError(f"`state_dtype` must be one of {STATE_DTYPES}, got {state_dtype!r}.")
        if seed is None:
            seed = random.randint(1, 10**9)
        elif isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"`seed` must be an integer of at least 0 or None, got {seed!r}.")
        if weight_decay is not None and not 0 <= weight_decay < np.inf:
            raise ValueError(
                f"`weight_decay` must be a number of at least 0 or None, got {weight_decay!r}.")
        pretrained, weights_name = _pretrained(weights, lookahead, seed)
        if learning_rate is None:
            learning_rate = pretrained.learning_rate
        if not isinstance(learning_rate, schedules.LearningRateSchedule) and not callable(
            learning_rate
        ):
            learning_rate = weights_lib.check_learning_rate(learning_rate)
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
        )
        if initial_learning_rate is not None:
            weights_lib.check_initial_learning_rate(initial_learning_rate)
            if pretrained.config.step_size != "learned":
                raise ValueError(
                    "`initial_learning_rate` must be None for weights of step_size="
                    f"{pretrained.config.step_size!r} (use `learning_rate`), got "
                    f"{initial_learning_rate!r}.")
        self.initial_learning_rate = initial_learning_rate
        self.state_dtype = state_dtype
        self.seed = seed
        self._pretrained = pretrained
        self._weights_name = weights_name
        self._state_variables = {}

    @property
    def network_config(self) -> HierarchicalRNNConfig:
        """The switches of the network behind the optimizer."""
        return self._pretrained.config

    @property
    def lookahead(self) -> bool:
        """Whether the model's variables hold an attended location while training."""
        return self.network_config.lookahead

    # Building.

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create the state for these variables.

        Raises:
            ValueError: if a variable is not of a floating dtype.
        """
        if self.built:
            return
        for variable in variables:
            if "float" not in keras.backend.standardize_dtype(variable.dtype):
                raise ValueError(
                    "`variables` must be of floating dtypes, got "
                    f"{keras.backend.standardize_dtype(variable.dtype)} for {variable.name!r}.")
        super().build(variables)
        with _outside_of_graph():
            self._build_state(variables)

    def _build_state(self, variables: Sequence[keras.Variable]) -> None:
        # Positions of the variables that the network moves; there is nothing to move in an empty
        # one, and float8 scales are overwritten by Keras itself.
        self._members = [
            i for i, variable in enumerate(variables)
            if np.prod(variable.shape) > 0 and not self._overwrite_variable_with_gradient(variable)
        ]
        self._network = self._pretrained.network()
        self._network.trainable = False
        for variable in self._network.meta_parameters.values():
            self._track_variable(variable)
        self.skipped_steps = self.add_variable(
            (), dtype="int32", name="skipped_steps", aggregation="only_first_replica")
        if not self._members:
            return
        members = [variables[i] for i in self._members]
        self._layout = Layout([variable.shape for variable in members])
        wide = any(keras.backend.standardize_dtype(v.dtype) == "float64" for v in members)
        state = self._network.init_state(
            self._layout,
            self._initial_log_learning_rate(),
            np.zeros((self._layout.blocks, self._layout.lanes), "float32"),
        )
        for field, value in zip(State._fields, state):
            if value is None:
                continue
            dtype = self.state_dtype
            if field == "true_parameters":
                dtype = "float64" if wide else "float32"
                value = self._layout.flatten(members, dtype)
            self._state_variables[field] = self.add_variable(
                tuple(value.shape), initializer=_constant(ops.convert_to_numpy(value)), dtype=dtype,
                name=field)

    def _initial_log_learning_rate(self) -> np.ndarray:
        """(B, L) initial log learning rates: for each tensor and each parameter, half of the range."""
        layout = self._layout
        if self.network_config.step_size == "normalized":
            return np.zeros((layout.blocks, layout.lanes), "float32")
        rate = self.initial_learning_rate or self._pretrained.initial_learning_rate
        low, high = np.log(rate if isinstance(rate, (tuple, list)) else (rate, rate)) / 2
        rng = np.random.default_rng(self.seed)
        tensors = [
            rng.uniform(low, high) + rng.uniform(low, high, shape) for shape in layout.shapes]
        return ops.convert_to_numpy(layout.flatten(tensors, "float32"))

    # Stepping.

    def _clip_gradients(self, grads: list[Any]) -> list[Any]:
        clipped = super()._clip_gradients(grads)
        if not self.clipvalue:
            return clipped
        # Clipping to a value would hide an infinite gradient from the step that must be skipped.
        return [ops.where(ops.isfinite(g), c, g) for g, c in zip(map(_dense, grads), clipped)]

    def _apply_weight_decay(self, variables: Sequence[keras.Variable]) -> None:
        """Nothing here: the step itself decays, the true parameters, and only if it is taken."""

    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable],
        learning_rate: Any,
    ) -> None:
        if keras.backend.backend() != "tensorflow":
            self._coupled_step(grads, trainable_variables, learning_rate)
            return
        import tensorflow as tf

        pairs = self._all_reduce_sum_gradients(list(zip(grads, trainable_variables)))

        def update(distribution, grads, learning_rate):
            # One update for all variables, on each device: they are coupled.
            distribution.extended.update(
                self.iterations_variable,
                lambda _, grads, rate: self._coupled_step(grads, trainable_variables, rate),
                args=(grads, learning_rate),
                group=False,
            )

        tf.__internal__.distribute.interim.maybe_merge_call(
            update, self._distribution_strategy, [grad for grad, _ in pairs],
            tf.convert_to_tensor(learning_rate))

    @property
    def iterations_variable(self) -> Any:
        """The backend's own variable behind `iterations`."""
        return self._iterations.value

    def _coupled_step(
        self, grads: Sequence[Any], variables: Sequence[keras.Variable], learning_rate: Any
    ) -> None:
        """Move all variables that have a gradient, together."""
        if self._pretrained.arrays is None and not self._weights_loaded:
            raise ValueError(
                f"The weights {self._weights_name!r} that this optimizer was saved with have another "
                "config in this release; load its saved variables before training.")
        given = {self._get_variable_index(v): (g, v) for g, v in zip(grads, variables)}
        if not any(i in given for i in self._members):
            return
        with _no_gradient():
            self._step_given(given, ops.cast(learning_rate, "float32"))

    def _step_given(self, given: dict[int, tuple[Any, keras.Variable]], rate: Any) -> None:
        layout, members = self._layout, self._members
        active = np.array([i in given for i in members])
        gradients = []
        for i, shape in zip(members, layout.shapes):
            gradient = _dense(given[i][0]) if i in given else ops.zeros(shape)
            if tuple(gradient.shape) != shape:
                raise ValueError(
                    f"`grads` must have the shapes of their variables, got {tuple(gradient.shape)} "
                    f"for a variable of shape {shape}.")
            gradients.append(gradient)
        gradient = layout.flatten(gradients, "float32")
        finite = ops.all(ops.isfinite(gradient))
        old = self.state()
        new, step = self._network.step(
            layout, old, gradient, None if active.all() else active)

        rate = ops.where(finite, rate, ops.zeros_like(rate))
        decays = [self._decay(self._trainable_variables[i], rate) for i in members]
        if self.lookahead:
            new, locations = self._attend(old, new, step, rate, decays, finite)
        else:
            moves = layout.unflatten(self._move(step.update, rate, finite))
        for k, i in enumerate(members):
            if i not in given:
                continue
            variable = given[i][1]
            if self.lookahead:
                self.assign(variable, ops.cast(locations[k], variable.dtype))
            else:
                value = ops.convert_to_tensor(variable)
                if decays[k] is not None:
                    value = value - value * ops.cast(decays[k], value.dtype)
                self.assign(variable, value - ops.cast(moves[k], value.dtype))
        for field, variable in self._state_variables.items():
            value = ops.where(finite, getattr(new, field), getattr(old, field))
            self.assign(variable, ops.cast(value, variable.dtype))
        self.assign_add(self.skipped_steps, ops.cast(ops.logical_not(finite), "int32"))

    def _move(self, update: Any, rate: Any, finite: Any) -> Any:
        # Zero times a NaN is a NaN: the rate alone does not keep a poisoned update out.
        return rate * ops.where(finite, update, ops.zeros_like(update))

    def _attend(
        self, old: State, new: State, step: Any, rate: Any, decays: list[Any], finite: Any
    ) -> tuple[State, list[Any]]:
        """Move the true parameters and the attended location (step 10 of the algorithm)."""
        layout = self._layout
        true = layout.unflatten(old.true_parameters)
        moves = layout.unflatten(self._move(step.update, rate, finite))
        looks = layout.unflatten(self._move(step.attended_update, rate, finite))
        moved, attended = [], []
        for k, i in enumerate(self._members):
            start = true[k] if decays[k] is None else true[k] - true[k] * ops.cast(
                decays[k], true[k].dtype)
            value = start - ops.cast(moves[k], start.dtype)
            constraint = getattr(self._trainable_variables[i], "constraint", None)
            moved.append(value if constraint is None else constraint(value))
            location = start - ops.cast(looks[k], start.dtype)
            # A step that is not taken leaves the attended location too.
            before = ops.cast(self._trainable_variables[i], start.dtype)
            attended.append(ops.where(finite, location, before))
        return new._replace(true_parameters=layout.flatten(moved)), attended

    def _decay(self, variable: keras.Variable, rate: Any) -> Any | None:
        if self.weight_decay is None or not self._use_weight_decay(variable):
            return None
        return rate * self.weight_decay

    def state(self) -> State:
        """The optimizer's state in float32 (see `State`), true parameters in their own dtype."""
        return State(*(
            ops.cast(
                self._state_variables[field],
                self._state_variables[field].dtype if field == "true_parameters" else "float32")
            if field in self._state_variables else None
            for field in State._fields
        ))

    def per_variable(self, buffer: Any) -> list[Any]:
        """A (B, L) buffer of the state as one tensor for each variable; None for those not moved."""
        values = [None] * len(self._trainable_variables)
        for i, value in zip(self._members, self._layout.unflatten(buffer)):
            values[i] = value
        return values

    # True parameters, where lookahead keeps the model's variables elsewhere.

    def true_parameters(self) -> list[Any]:
        """The parameters themselves, one tensor for each variable that the optimizer was built on.

        Without lookahead they are what the model's variables hold.
        """
        values = [ops.convert_to_tensor(variable) for variable in self._trainable_variables]
        if self.lookahead and self._members:
            true = self.per_variable(
                ops.convert_to_tensor(self._state_variables["true_parameters"]))
            for i in self._members:
                values[i] = ops.cast(true[i], values[i].dtype)
        return values

    def finalize_variable_values(self, var_list: Sequence[keras.Variable]) -> None:
        """Put the final values into the model: their moving average, or the true parameters."""
        if self.use_ema:
            super().finalize_variable_values(var_list)
        elif self.lookahead:
            true = self.true_parameters()
            for variable in var_list:
                variable.assign(true[self._get_variable_index(variable)])

    def _backend_apply_gradients(
        self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable]
    ) -> None:
        super()._backend_apply_gradients(grads, trainable_variables)
        if self.lookahead and self._members and self.use_ema and self.ema_overwrite_frequency:
            # Keras has put the average into the model's variables: it replaces the parameters too.
            overwritten = ops.equal((self.iterations + 1) % self.ema_overwrite_frequency, 0)
            variable = self._state_variables["true_parameters"]
            average = self._layout.flatten(
                [self._model_variables_moving_average[i] for i in self._members], variable.dtype)
            self.assign(variable, ops.where(overwritten, average, variable))

    def _update_model_variables_moving_average(
        self, trainable_variables: Sequence[keras.Variable]
    ) -> None:
        if not self.lookahead:
            super()._update_model_variables_moving_average(trainable_variables)
            return
        momentum = self.ema_momentum * ops.cast(ops.not_equal(self.iterations, 0), "float32")
        for true, average in zip(self.true_parameters(), self._model_variables_moving_average):
            if average is not None:
                m = ops.cast(momentum, average.dtype)
                self.assign(average, m * average + (1.0 - m) * true)

    # Saving.

    _weights_loaded = False

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables(store)
        self._weights_loaded = True

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "weights": weights_lib.to_config(self._pretrained, self._weights_name),
            "initial_learning_rate": self.initial_learning_rate,
            "lookahead": self.lookahead,
            "state_dtype": self.state_dtype,
            "seed": self.seed,
        }


def _pretrained(
    weights: Any, lookahead: bool | None, seed: int
) -> tuple[weights_lib.Pretrained, str | None]:
    """The weights that the arguments ask for, and their name if a config may call them by it."""
    if isinstance(weights, dict):
        pretrained, name = weights_lib.from_config(weights, seed)
    elif isinstance(weights, str) and weights == "untrained":
        config = HierarchicalRNNConfig(lookahead=bool(lookahead))
        name = weights
        pretrained = weights_lib.Pretrained.from_network(HierarchicalRNN(config, seed=seed))
    else:
        pretrained = weights_lib.resolve(weights)
        name = weights if isinstance(weights, str) and weights in weights_lib.shipped() else None
    if lookahead not in (None, True, False):
        raise ValueError(f"`lookahead` must be True, False or None, got {lookahead!r}.")
    if lookahead is False:
        pretrained = pretrained.without_lookahead()
    elif lookahead and not pretrained.config.lookahead:
        raise ValueError(
            "`lookahead` must be None or False for weights that were meta-trained without it, got "
            "True.")
    return dataclasses.replace(pretrained), name


def _constant(value: np.ndarray) -> Any:
    return lambda shape, dtype=None: ops.convert_to_tensor(value, dtype)


def _dense(gradient: Any) -> Any:
    """The gradient as a tensor: an embedding's comes as slices from TensorFlow."""
    return ops.convert_to_tensor(gradient)


def _outside_of_graph() -> Any:
    """Where TensorFlow makes variables, if it is tracing the first training step."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.init_scope()
    return contextlib.nullcontext()


def _no_gradient() -> Any:
    """Outside of autograd, where the backend records eagerly."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()
    return contextlib.nullcontext()
