"""Learned optimizers as Keras optimizers, on every backend."""

from __future__ import annotations

import functools
import random
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from hrnn_opt.checks import is_number, require
from hrnn_opt.files import resolve as resolve_lib
from hrnn_opt.files import weights as weights_lib
from hrnn_opt.interface import NetworkConfig, Seen, State, Step, sized
from hrnn_opt.places import backend
from hrnn_opt.places.sharding import layout_of
from hrnn_opt.places.sweep import entrywise
from hrnn_opt.registry import kinds
from hrnn_opt.training import surroundings
from hrnn_opt.training.coupled import CoupledOptimizer

STATE_DTYPES = ("float32", "bfloat16")


@keras.saving.register_keras_serializable(package="hrnn_opt")
class LearnedOpt(CoupledOptimizer):
    """A learned optimizer of any kind.

    Args:
        weights: what the optimizer is: the name of shipped weights, the path of a weights file or
            folder, a name on the Hugging Face Hub (`"user/name"`, or `"user/name@revision"`),
            `"untrained"` (random start values of the hierarchical RNN), or a network, of any kind
            and in any rules.
        initial_learning_rate: where the log learning rate of every parameter starts: a positive
            number, or a range (low, high) from which they are drawn log-uniformly, half of the
            randomness shared by a tensor (as in meta-training). Only for networks that keep one.
            None: what the weights want.
        lookahead: take gradients at an attended location ahead of the parameters. None: as the
            weights were meta-trained; False turns it off. While training, the model's variables
            hold that location: see `SwapLookahead` and `finalize_variable_values`.
        learning_rate: multiplies the step; a float, a schedule or a callable, as in any Keras
            optimizer. None: what the weights want. At 0 the model's variables stay as they are,
            while gradients are still remembered.
        state_dtype: `"float32"`, or `"bfloat16"` for half the memory. True parameters, with
            lookahead, stay in at least 32 bits.
        hold_zero_gradients: tensors whose gradient is exactly 0 at a step are left out of it, as
            those without gradient are, where the network would move them (a recurrent network's
            read-out is not 0 where its inputs are), or the others differently because of them (a
            hierarchical network reads means over tensors). Where the network would move them, so
            are entries of other tensors whose gradient has always been 0, as unused rows of an
            embedding: a bit for each is remembered. Other networks need no such care.
        num_steps: how many batches the whole training has, for networks that read it. None: as many
            as the first call of `fit` has, where that can be known. Longer training goes on, as
            after the end. Networks that can do without it are told if it is given.
        seed: of the drawn initial learning rates and of `"untrained"` weights. None: drawn, so
            that `keras.utils.set_random_seed` decides it.
        jit_compile: on PyTorch, whether to compile the step, with `torch.compile`. The first one
            then takes half a minute, and those after it half as long as without for large models.
            Where it fails (there is no C++ compiler, say) a warning tells. The other backends
            compile the step with what is around it: see `keras.Model.compile`.
        weight_decay: decoupled; each step shrinks the parameters by weight_decay * learning_rate,
            those whose gradient is 0 too.
        clipnorm, clipvalue, global_clipnorm: as in every Keras optimizer.
        use_ema, ema_momentum, ema_overwrite_frequency: likewise; the moving average is of the true
            parameters.
        loss_scale_factor, gradient_accumulation_steps, name: likewise.

    Attributes:
        skipped_steps: number of steps left out because a gradient, or the loss where it is read,
            held a number that is not finite. Such a step leaves parameters and state as they were.

    Raises:
        ValueError: naming the argument that is not allowed.

    Example:

    >>> model.compile(optimizer=LearnedOpt("rule"), loss="sparse_categorical_crossentropy")
    >>> model.fit(x, y)
    """

    @backend.float32()
    def __init__(
        self,
        weights: Any = "default",
        initial_learning_rate: float | tuple[float, float] | None = None,
        lookahead: bool | None = None,
        learning_rate: Any = None,
        state_dtype: str = "float32",
        hold_zero_gradients: bool = True,
        num_steps: int | None = None,
        seed: int | None = None,
        jit_compile: bool = False,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
    ) -> None:
        if state_dtype not in STATE_DTYPES:
            raise ValueError(f"`state_dtype` must be one of {STATE_DTYPES}, got {state_dtype!r}.")
        if seed is None:
            seed = random.randint(1, 10**9)
        require("seed", seed, is_number(seed, int) and seed >= 0,
                "an integer of at least 0 or None")
        for argument, value in (
            ("jit_compile", jit_compile), ("hold_zero_gradients", hold_zero_gradients),
        ):
            require(argument, value, isinstance(value, bool), "True or False")
        require("num_steps", num_steps,
                num_steps is None or (is_number(num_steps, int) and num_steps >= 1),
                "an integer of at least 1 or None")
        if weight_decay is not None:
            weight_decay = weights_lib.check_rate("weight_decay", weight_decay)
        with backend.replicated():
            pretrained = resolve_lib.resolve(weights, lookahead, seed)
            self._check_kind(pretrained.config)
        if learning_rate is None:
            learning_rate = pretrained.learning_rate
        elif not callable(learning_rate):
            learning_rate = weights_lib.check_rate("learning_rate", learning_rate)
        if initial_learning_rate is not None:
            initial_learning_rate = weights_lib.check_initial_learning_rate(initial_learning_rate)
            if not pretrained.takes_log_rates:
                raise ValueError(
                    "`initial_learning_rate` must be None for weights that keep no log learning "
                    f"rate of their own (use `learning_rate`), got {initial_learning_rate!r}.")
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
        self.initial_learning_rate = initial_learning_rate
        self.state_dtype = state_dtype
        self.seed = seed
        self.jit_compile = jit_compile
        self.hold_zero_gradients = hold_zero_gradients
        self.num_steps = num_steps
        self._loss = surroundings.Loss()
        self._loss_of_step: Any = None
        self._pretrained = pretrained
        self._iterates = pretrained.iterates
        self._members: list[int] = []
        # Which entries have ever had a gradient, where the network does not see to it.
        self._felt: keras.Variable | None = None
        self._state_variables: dict[str, keras.Variable] = {}

    def _check_kind(self, config: NetworkConfig) -> None:
        """Nothing here: any kind will do."""

    @property
    def network_config(self) -> NetworkConfig:
        """The switches of the network behind the optimizer, and of the rules around it."""
        return self._pretrained.config

    @property
    def lookahead(self) -> bool:
        """Whether gradients are taken at a location that the network attends to."""
        return self._pretrained.has_lookahead

    @property
    def attends(self) -> bool:
        """Whether the model's variables, while training, hold another location than the parameters
        that are trained: with lookahead."""
        return self._iterates.attends

    @property
    def meta_parameters(self) -> dict[str, keras.Variable]:
        """The meta-parameters of the network behind the optimizer, by name, once it is built."""
        return self._step.__self__.meta_parameters

    # Building.

    @backend.float32()
    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create the state for these variables.

        Raises:
            ValueError: if a variable is not of a floating dtype.
        """
        if self.built:
            return
        variables = list(variables)
        for variable in variables:
            if "float" not in keras.backend.standardize_dtype(variable.dtype):
                raise ValueError(
                    "`variables` must be of floating dtypes, got "
                    f"{keras.backend.standardize_dtype(variable.dtype)} for {variable.name!r}.")
        super().build(variables)
        with backend.outside_of_graph(), backend.replicated():
            self._build_state(variables)

    def _build_state(self, variables: list[keras.Variable]) -> None:
        # Positions of the variables that the network moves; there is nothing to move in an empty
        # one, and float8 scales are overwritten by Keras itself.
        self._members = [
            i for i, variable in enumerate(variables)
            if 0 not in variable.shape and not self._overwrite_variable_with_gradient(variable)
        ]
        network = self._pretrained.network()
        network.trainable = False
        for variable in network.meta_parameters.values():
            self._track_variable(variable)
        if self.jit_compile:
            network.compile_step()
        # Not the network: Keras would save its variables once more, as those of a layer.
        self._step: Any = network.step
        self.skipped_steps = self.add_variable(
            (), dtype="int32", name="skipped_steps", aggregation="only_first_replica")
        if not self._members:
            return
        self._layout = layout_of([variables[i] for i in self._members])
        self._fields = network.fields
        self._needs = network.needs
        self._steps_of_fit()
        if "loss" in self._needs and self.gradient_accumulation_steps:
            self._loss_sum = self.add_variable(
                (), dtype="float32", name="loss_sum", aggregation="only_first_replica")
        self._holds = self.hold_zero_gradients and (network.hierarchical or not network.still)
        if self.hold_zero_gradients and not network.still:
            self._felt = self.add_variable(
                (self._layout.blocks, self._layout.lanes), dtype="bool", name="felt",
                layout=self._layout.sharding(2))
        rates = self._initial_log_learning_rate() if network.takes_log_rates else None
        state = network.init_state(self._layout, log_rates=rates)
        # The true parameters are kept as their offset from the model's variables: whoever sets
        # those (`load_weights` between two calls of `fit`, say) sets both.
        if self._iterates.keeps_offset:
            self._offset = self.add_variable(
                (self._layout.blocks, self._layout.lanes), dtype="float32",
                name="lookahead_offset", layout=self._layout.sharding(2))
        for name, field in self._fields.items():
            shape = field.shape(self._layout)
            self._state_variables[name] = self.add_variable(
                shape, initializer=_constant(state.pop(name)),
                dtype="float32" if field.wide else self.state_dtype, name=name,
                layout=self._layout.sharding(len(shape)) if field.of == "parameter" else None)

    def _initial_log_learning_rate(self) -> np.ndarray:
        """(B, L) initial log learning rates: half of a range by tensor, half by parameter."""
        layout = self._layout
        rate = self.initial_learning_rate or self._pretrained.initial_learning_rate
        low, high = np.log(rate if isinstance(rate, (tuple, list)) else (rate, rate)) / 2
        rng = np.random.default_rng(self.seed)
        tensors = [
            rng.uniform(low, high) + rng.uniform(low, high, shape) for shape in layout.shapes]
        return ops.convert_to_numpy(layout.flatten(tensors, "float32"))

    # Stepping.

    @backend.float32()
    def _get_current_learning_rate(self) -> Any:
        # Of a schedule, say, which counts steps.
        return super()._get_current_learning_rate()

    def scale_loss(self, loss: Any) -> Any:
        """The loss, scaled as in every Keras optimizer. A network that reads the loss sees it here;
        who writes a training loop calls this, or gives the loss to `apply`."""
        if "loss" in self._pretrained.needs:
            loss = self._loss.pass_through(loss)
        return super().scale_loss(loss)

    def stateless_apply(
        self, optimizer_variables: Sequence[Any], grads: Sequence[Any],
        trainable_variables: Sequence[Any], loss: Any | None = None,
    ) -> Any:
        """As in every Keras optimizer, on JAX.

        Args:
            optimizer_variables, grads, trainable_variables: as there.
            loss: as in `apply`.
        """
        if loss is not None:
            self._loss.keep(loss)
        return super().stateless_apply(optimizer_variables, grads, trainable_variables)

    @backend.float32()
    def apply(
        self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable] | None = None,
        loss: Any | None = None,
    ) -> None:
        """Take one step, as every Keras optimizer does.

        Args:
            grads: a gradient, or None, for each variable.
            trainable_variables: the variables; None: those that the optimizer was built on.
            loss: of the batch, for networks that read it; None: what passed through `scale_loss`.

        Raises:
            ValueError: if the gradients do not fit the variables in number or shape, if there is
                none, if the optimizer was built on other variables, or if the network reads the
                loss or the number of steps and nobody knows them.
        """
        if loss is not None:
            self._loss.keep(loss)
        grads = list(grads)
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
        elif not self.built:
            raise ValueError(
                "`trainable_variables` must be given at the first step, or to `build` before, got "
                "None.")
        variables = (
            self._trainable_variables if trainable_variables is None else trainable_variables)
        if len(grads) != len(variables):
            raise ValueError(
                f"`grads` must have an entry for each of the {len(variables)} variables, got "
                f"{len(grads)}.")
        for k, variable in enumerate(variables):
            if grads[k] is None:
                continue
            grads[k] = backend.dense(grads[k], variable.shape)
            if tuple(grads[k].shape) != tuple(variable.shape):
                raise ValueError(
                    "`grads` must have the shapes of their variables, got "
                    f"{tuple(grads[k].shape)} for {variable.name!r} of shape "
                    f"{tuple(variable.shape)}.")
        super().apply(grads, trainable_variables)

    def _loss_of_batch(self) -> Any | None:
        """What the step is told of the loss: with gradient accumulation the mean since the last
        step; None where the network does not read it."""
        loss = self._loss.take()
        if not self._members or "loss" not in self._needs:
            return None
        if loss is None:
            raise ValueError(
                "`loss` must be given to `apply` or pass through `scale_loss` of this optimizer, "
                f"since the kind {self.network_config.kind!r} reads it, got None. (`fit` does so, "
                "but not inside of a LossScaleOptimizer: compile with `auto_scale_loss=False`.)")
        loss = surroundings.over_replicas(ops.cast(loss, "float32"))
        steps = self.gradient_accumulation_steps
        if not steps:
            return loss
        total = self._loss_sum + loss
        # Not `iterations`, which counts steps.
        done = ops.equal((self._iterations + 1) % steps, 0)
        self.assign(self._loss_sum, ops.where(done, 0.0, total))
        return total / steps

    def _steps_of_fit(self) -> None:
        """Note how many batches the training has, if it is to be known and can be."""
        if self.num_steps is None and "horizon" in self._needs:
            self.num_steps = surroundings.steps_of_fit(self)

    def _horizon(self) -> np.float32 | None:
        """How many steps the training has; None where the network does not ask."""
        if "horizon" not in self._needs:
            return None
        self._steps_of_fit()
        if self.num_steps is None:
            raise ValueError(
                "`num_steps` must be given where it cannot be read from `fit`, since the kind "
                f"{self.network_config.kind!r} reads it, got None: pass the number of batches of "
                "the whole training.")
        return self._steps_in_all(self.num_steps)

    def _steps_in_all(self, batches: int) -> np.float32:
        return np.float32(max(1, batches // (self.gradient_accumulation_steps or 1)))

    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable],
        learning_rate: Any,
    ) -> None:
        if keras.backend.backend() != "tensorflow":
            with backend.no_gradient():
                self._coupled_step(grads, trainable_variables, learning_rate, self._loss_of_step)
            return
        import tensorflow as tf

        def update(distribution, grads, learning_rate, loss):
            # One update for all variables, on each device: they are coupled.
            distribution.extended.update(
                self._iterations.value,
                lambda _, grads, rate, loss: self._coupled_step(
                    grads, trainable_variables, rate, loss),
                args=(grads, learning_rate, loss),
                group=False,
            )

        pairs = self._all_reduce_sum_gradients(list(zip(grads, trainable_variables)))
        tf.__internal__.distribute.interim.maybe_merge_call(
            update, self._distribution_strategy, [grad for grad, _ in pairs],
            tf.convert_to_tensor(learning_rate),
            tf.zeros(()) if self._loss_of_step is None else self._loss_of_step)

    def _coupled_step(
        self, grads: Sequence[Any], variables: Sequence[keras.Variable], learning_rate: Any,
        loss: Any | None,
    ) -> None:
        """Move all variables that have a gradient, together."""
        if self._pretrained.arrays is None and not self._weights_loaded:
            raise ValueError(
                f"`weights` {self._pretrained.name!r}, which this optimizer was saved with, are "
                "not here in the same config; load its saved variables before training.")
        given = {self._get_variable_index(v): (g, v) for g, v in zip(grads, variables)}
        present = np.array([i in given for i in self._members])
        if not present.any():
            return
        layout = self._layout
        gradient = layout.flatten([
            _narrow(given[i][0]) if i in given else ops.zeros(shape)
            for i, shape in zip(self._members, layout.shapes)])
        finite = backend.all_finite(gradient)
        if "loss" in self._needs:
            finite = ops.logical_and(finite, ops.isfinite(loss))
        active, taken = self._active(gradient, present), finite
        if self._holds and active is not None:
            taken = ops.logical_and(finite, ops.any(active))
            if layout.tensors == 1:
                active = None
        old = self._held_state()
        new, step = self._step(layout, old, self._seen(gradient, given, loss), active, taken)
        step = sized(step, layout)
        feels = self._feels(gradient, taken)
        rate = ops.cast(learning_rate, "float32")
        # At a rate of 0 nothing moves: neither an average towards where the fast iterate is, nor
        # the place where gradients are taken. What counts moves does not count it.
        moving = ops.logical_and(finite, ops.not_equal(rate, 0.0))
        for name, field in self._fields.items():
            if field.of_moves:
                new[name] = ops.where(moving, new[name], old[name])
        taken = ops.logical_and(taken, moving)
        # Where the new state was written over the old one there is nothing to assign.
        written = {name for name in self._fields if new[name] is old[name]}
        # Eagerly, what is no longer needed would only be in the way.
        del gradient, old

        if self._alike([given[i][1] if i in given else None for i in self._members]):
            self._move_together([given[i][1] for i in self._members], step, rate, active, taken,
                                moving, feels)
        else:
            self._move_each(given, step, rate, active, taken, moving, feels)
        for name, variable in self._state_variables.items():
            if name not in written:
                self.assign(variable, ops.cast(new[name], variable.dtype))
        if feels is not None:
            self.assign(self._felt, feels)
        self.assign_add(self.skipped_steps, ops.cast(ops.logical_not(finite), "int32"))

    def _alike(self, variables: Sequence[keras.Variable | None]) -> bool:
        """Whether what is done to the variables is the same for all, number by number, so that it
        can be done to all in one buffer. What XLA makes of many variables takes longer to compile;
        PyTorch would only copy them into one."""
        return (
            keras.backend.backend() != "torch" and len(variables) > 1
            and self.weight_decay is None and self._layout.sharding(2) is None
            and all(
                variable is not None and getattr(variable, "constraint", None) is None
                and keras.backend.standardize_dtype(variable.dtype) == "float32"
                for variable in variables))

    def _move_together(
        self, variables: Sequence[keras.Variable], step: Step, rate: Any, active: Any | None,
        taken: Any, moving: Any, feels: Any | None,
    ) -> None:
        """Move variables that are `_alike`; arguments as in `_move_each`."""
        layout, moves = self._layout, taken
        if self._holds and active is not None:
            moves = ops.logical_and(taken, layout.to_lanes(active))
        offset = ops.convert_to_tensor(self._offset) if self._iterates.keeps_offset else None
        location, offset = self._moved(
            variables[0], step.weight, rate, moves, moving,
            layout.flatten([ops.convert_to_tensor(variable) for variable in variables]),
            step.update, step.ahead, offset, feels)
        for variable, value in zip(variables, layout.unflatten(location)):
            self.assign(variable, value)
        if offset is not None:
            self.assign(self._offset, offset)

    def _move_each(
        self, given: dict[int, tuple[Any, keras.Variable]], step: Step, rate: Any,
        active: Any | None, taken: Any, moving: Any, feels: Any | None,
    ) -> None:
        """Move the variables that have a gradient.

        Args:
            given: by position, their gradients and they.
            step: of all tensors, sized.
            rate: () learning rate.
            active: (K,) booleans, the tensors that take part; None: all.
            taken: () boolean: whether the step is taken.
            moving: () boolean: whether anything moves at all.
            feels: (B, L) booleans, the entries that are moved; None: all.
        """
        layout, keeps_offset = self._layout, self._iterates.keeps_offset
        updates = layout.unflatten(step.update)
        felt = None if feels is None else layout.unflatten(feels)
        aheads = None if step.ahead is None else layout.unflatten(step.ahead)
        offsets = layout.unflatten(self._offset) if keeps_offset else []
        for k, member in enumerate(self._members):
            if member not in given:
                continue
            variable, moves = given[member][1], taken
            if self._holds and active is not None:
                moves = ops.logical_and(taken, active[k])
            move = functools.partial(self._moved, variable, step.weight, rate, moves, moving)
            arrays = (
                ops.convert_to_tensor(variable), updates[k],
                None if aheads is None else aheads[k], offsets[k] if keeps_offset else None,
                None if felt is None else felt[k])
            # A constraint looks at all of a tensor.
            whole = getattr(variable, "constraint", None) is not None
            location, offset = move(*arrays) if whole else entrywise(move, *arrays)
            self.assign(variable, location)
            if keeps_offset:
                offsets[k] = offset
        if keeps_offset:
            self.assign(self._offset, layout.flatten(offsets))

    def _moved(
        self, variable: keras.Variable, weight: Any | None, rate: Any, moves: Any, moving: Any,
        value: Any, update: Any, ahead: Any | None, offset: Any | None, felt: Any | None,
    ) -> tuple[Any, Any | None]:
        """What a tensor holds after a step, or some of its entries do.

        Args:
            variable: the tensor.
            weight: of the step.
            rate: () learning rate.
            moves: () boolean: whether the tensor takes the step.
            moving: () boolean: whether anything moves at all.
            value, update, ahead, offset: before the step, and of it, in one shape.
            felt: booleans, which entries are moved; None: all.

        Returns:
            The new value, and the new offset; None without one.
        """
        before, start = offset, _at_least_32_bits(value)
        if offset is not None:
            offset = ops.cast(offset, start.dtype)
            start = start + offset
        update = ops.cast(rate * update, start.dtype)
        if ahead is not None:
            ahead = ops.cast(rate * ahead, start.dtype)
        if felt is not None:
            moves = ops.logical_and(moves, felt)
        if self.weight_decay is not None and self._use_weight_decay(variable):
            if self._holds:
                # What is held moves by its decay alone.
                update = _chosen(moves, update, 0.0)
                ahead = None if ahead is None else _chosen(moves, ahead, offset)
                moves = moving
            decay = start * ops.cast(rate * self.weight_decay, start.dtype)
            if self._iterates.decays_update:
                update = update + decay
            else:
                start = start - decay
        weight = None if weight is None else ops.cast(weight, start.dtype)
        moved, location = self._iterates.move(start, offset, update, ahead, weight)
        if offset is not None:
            moved, location = _constrained(variable, moved), _constrained(variable, location)
        location = ops.cast(location, value.dtype)
        if offset is not None:
            offset = _chosen(
                moves, ops.cast(moved - ops.cast(location, moved.dtype), "float32"), before)
        return _chosen(moves, location, value), offset

    def _active(self, gradient: Any, present: np.ndarray) -> Any | None:
        """(K,) which tensors take part in this step; None for all."""
        if not self._holds:
            return None if present.all() else ops.convert_to_tensor(present)
        blocks = ops.any(gradient != 0, axis=-1)
        if backend.is_seen(ops.all(blocks)):
            return None
        return ops.logical_and(
            self._layout.mean_of_blocks(ops.cast(blocks, "float32")) > 0, present)

    def _feels(self, gradient: Any, taken: Any) -> Any | None:
        """(B, L) which entries have had a gradient that was not 0, with this step; None where that
        is not kept, or is so of all."""
        if self._felt is None:
            return None
        felt = ops.convert_to_tensor(self._felt)
        if backend.is_seen(ops.sum(felt) == self._layout.parameters):
            return None
        return ops.logical_or(felt, ops.logical_and(gradient != 0, taken))

    def _seen(
        self, gradient: Any, given: dict[int, tuple[Any, keras.Variable]], loss: Any | None
    ) -> Seen:
        """What the network needs to see, of the parameters that take part."""
        keeps_offset = self._iterates.keeps_offset
        offset = ops.convert_to_tensor(self._offset) if keeps_offset else None
        parameters = None
        if "parameters" in self._needs:
            parameters = self._layout.flatten([
                ops.cast(given[i][1], "float32") if i in given else ops.zeros(shape)
                for i, shape in zip(self._members, self._layout.shapes)])
            if keeps_offset:
                parameters = parameters + offset
        progress = None
        if "progress" in self._needs and self.num_steps is not None:
            # Of steps that were taken, as networks that count for themselves have it.
            taken = self.iterations - ops.cast(self.skipped_steps, self.iterations.dtype)
            progress = ops.cast(taken, "float32") / self._steps_in_all(self.num_steps)
        return Seen(
            gradient, parameters, loss=loss if "loss" in self._needs else None, progress=progress,
            offset=offset if "offset" in self._needs else None, horizon=self._horizon())

    def state(self) -> State:
        """The optimizer's state in float32, by name."""
        return {name: ops.cast(value, "float32") for name, value in self._held_state().items()}

    def _held_state(self) -> State:
        """The state in the types that it is kept in."""
        return {
            name: ops.convert_to_tensor(variable)
            for name, variable in self._state_variables.items()}

    def per_variable(self, buffer: Any) -> list[Any]:
        """A (B, L) buffer of the state as a tensor for each variable; None for those not moved."""
        values = [None] * len(self._trainable_variables)
        for i, value in zip(self._members, self._layout.unflatten(buffer)):
            values[i] = value
        return values

    # True parameters, where lookahead keeps the model's variables elsewhere.

    def true_parameters(self) -> list[Any]:
        """The parameters themselves, one tensor for each variable that the optimizer was built on.

        Without lookahead they are what the model's variables hold.
        """
        with backend.no_gradient():
            values = [ops.convert_to_tensor(variable) for variable in self._trainable_variables]
            if self.attends and self._members:
                for i, offset in zip(self._members, self._layout.unflatten(self._offset)):
                    wide = _at_least_32_bits(values[i])
                    values[i] = ops.cast(wide + ops.cast(offset, wide.dtype), values[i].dtype)
        return values

    @backend.float32()
    def put_true_parameters(self) -> None:
        """Put the true parameters into the model's variables."""
        if self.attends and self._members:
            for variable, value in zip(self._trainable_variables, self.true_parameters()):
                self.assign(variable, value)
            self.assign(self._offset, ops.zeros(self._offset.shape))

    @backend.float32()
    def put_attended(self, locations: Sequence[Any]) -> None:
        """Put other locations into the model's variables, the true parameters staying as they are.

        Args:
            locations: for each variable that the optimizer was built on, what it shall hold.
        """
        if self.attends and self._members:
            offsets = []
            for i, true in enumerate(self.true_parameters()):
                self.assign(self._trainable_variables[i], locations[i])
                if i in self._members:
                    offsets.append(_at_least_32_bits(true) - _at_least_32_bits(locations[i]))
            self.assign(self._offset, self._layout.flatten(offsets, "float32"))

    @backend.float32()
    def finalize_variable_values(self, var_list: Sequence[keras.Variable]) -> None:
        """Put the final values into the model: their moving average, or the true parameters."""
        self.put_true_parameters()
        super().finalize_variable_values(var_list)

    def _backend_apply_gradients(
        self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable]
    ) -> None:
        self._loss_of_step = self._loss_of_batch()
        super()._backend_apply_gradients(grads, trainable_variables)
        self._loss_of_step = None
        keeps_offset = self._iterates.keeps_offset and self._members
        if keeps_offset and self.use_ema and self.ema_overwrite_frequency:
            # Keras has put the average into the model's variables: it replaces the parameters too.
            overwritten = ops.equal((self.iterations + 1) % self.ema_overwrite_frequency, 0)
            offset = ops.convert_to_tensor(self._offset)
            self.assign(self._offset, ops.where(overwritten, ops.zeros_like(offset), offset))

    def _update_model_variables_moving_average(
        self, trainable_variables: Sequence[keras.Variable]
    ) -> None:
        if not self.attends:
            super()._update_model_variables_moving_average(trainable_variables)
            return
        momentum = self.ema_momentum * ops.cast(ops.not_equal(self.iterations, 0), "float32")
        for true, average in zip(self.true_parameters(), self._model_variables_moving_average):
            if average is not None:
                m = ops.cast(momentum, average.dtype)
                self.assign(average, m * average + (1.0 - m) * true)

    # Saving.

    _weights_loaded = False

    def _buffers(self) -> dict[str, keras.Variable]:
        """The variables that lie in blocks and lanes, by what files call them."""
        buffers = [
            variable for name, variable in self._state_variables.items()
            if self._fields[name].of == "parameter"]
        if self._iterates.keeps_offset and self._members:
            buffers.append(self._offset)
        if self._felt is not None:
            buffers.append(self._felt)
        below = {id(variable) for variable in buffers}
        return {str(i): v for i, v in enumerate(self.variables) if id(v) in below}

    # Files hold the state as it lies on one device, so that any number of them may load it.

    @backend.float32()
    def save_own_variables(self, store: Any) -> None:
        buffers = self._buffers()
        for i, variable in enumerate(self.variables):
            value = variable.numpy()
            if str(i) in buffers:
                value = self._layout.to_file(value)
            store[str(i)] = value

    @backend.float32()
    def load_own_variables(self, store: Any) -> None:
        if len(store.keys()) == len(self.variables):
            buffers, names = self._buffers(), map(str, range(len(self.variables)))
            if not self._fits(store, buffers):
                warnings.warn(
                    f"Skipping variable loading for optimizer {self.name!r}, because it was saved "
                    "with other trainable variables: it starts anew.", stacklevel=2)
                return
            store = {
                name: self._layout.from_file(store[name]) if name in buffers else store[name]
                for name in names}
        super().load_own_variables(store)
        # Keras only warns where the numbers of variables differ, and loads none.
        self._weights_loaded |= len(store.keys()) == len(self.variables)

    def _fits(self, store: Any, buffers: dict[str, keras.Variable]) -> bool:
        """Whether what was saved has the shapes of what is here, for as many variables."""
        # All buffers end with the same blocks and lanes.
        place = next((self._layout.to_file(x.numpy()).shape[-2:] for x in buffers.values()), ())
        return all(
            tuple(store[str(i)].shape) == (
                (*variable.shape[:-2], *place) if str(i) in buffers else tuple(variable.shape))
            for i, variable in enumerate(self.variables))

    def get_config(self) -> dict[str, Any]:
        rate = self.initial_learning_rate
        return {
            **super().get_config(),
            "weights": resolve_lib.to_config(self._pretrained),
            # A tuple would come back from a file as something else.
            "initial_learning_rate": list(rate) if isinstance(rate, tuple) else rate,
            "lookahead": self.lookahead,
            "state_dtype": self.state_dtype,
            "hold_zero_gradients": self.hold_zero_gradients,
            "num_steps": self.num_steps,
            "seed": self.seed,
            "jit_compile": self.jit_compile,
        }


@keras.saving.register_keras_serializable(package="hrnn_opt")
class HierarchicalLOpt(LearnedOpt):
    """The hierarchical optimizer: a recurrent network for each parameter, tensor and the model.

    Each parameter has a small recurrent network, which reads gradient averages at several time
    scales and decides a direction, a step size and its own decays; a network for each tensor and
    one for the model coordinate them. The shipped weights differ in what they have learned: their
    cards (`hrnn_opt/pretrained`) say which were designed and which were meta-trained.

    Args and attributes are those of `LearnedOpt`; `weights` must be of a hierarchical network.

    Raises:
        ValueError: naming the argument that is not allowed.

    Example:

    >>> model.compile(optimizer=HierarchicalLOpt(), loss="sparse_categorical_crossentropy")
    >>> model.fit(x, y)

    Reference:
        Wichrowska et al., "Learned Optimizers that Scale and Generalize", ICML 2017
        (https://arxiv.org/abs/1703.04813).
    """

    def _check_kind(self, config: NetworkConfig) -> None:
        if not kinds()[config.kind].hierarchical:
            raise ValueError(
                "`weights` of HierarchicalLOpt must be those of a hierarchical network, got the "
                f"kind {config.kind!r}: use LearnedOpt, which takes any.")


def _constant(value: Any) -> Any:
    return lambda shape, dtype=None: ops.convert_to_tensor(value, dtype)


def _chosen(condition: Any, new: Any, old: Any) -> Any:
    """New numbers where the condition holds, else the old ones."""
    if len(condition.shape) == 0 and backend.is_seen(condition):
        return new
    return ops.where(condition, new, old)


def _constrained(variable: keras.Variable, value: Any) -> Any:
    constraint = getattr(variable, "constraint", None)
    return value if constraint is None else constraint(value)


def _at_least_32_bits(x: Any) -> Any:
    """The tensor as float32, or float64 if it is that."""
    x = ops.convert_to_tensor(x)
    return x if keras.backend.standardize_dtype(x.dtype) == "float64" else ops.cast(x, "float32")


def _narrow(gradient: Any) -> Any:
    """The gradient as float32: finite numbers stay finite, and others do not become so."""
    if keras.backend.standardize_dtype(gradient.dtype) == "float64":
        largest = float(np.finfo("float32").max)
        gradient = ops.where(
            ops.isfinite(gradient), ops.clip(gradient, -largest, largest), gradient)
    return ops.cast(gradient, "float32")
