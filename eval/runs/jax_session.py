"""A network in training on JAX.

A step is one compiled function that takes and returns all variables. It is called from Python: on a
CPU this costs 0.1 ms, while convolutions inside `lax.scan` were measured nine times slower than
outside, and a scan saved an MLP's step only a quarter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import keras

from eval.runs.losses import measures
from eval.runs.optimizers import told
from eval.runs.session import EVALUATION_BATCH

Arrays = list[jax.Array]


class State(NamedTuple):
    """All that changes while training: what Keras's variables hold, and the last batch's loss."""

    step: jax.Array
    trainable: Arrays
    non_trainable: Arrays
    optimizer: Arrays
    loss: jax.Array


class JaxSession:
    """A `Session` on JAX; arguments are those of `eval.runs.sessions.start`."""

    def __init__(self, model: keras.Model, optimizer: keras.optimizers.Optimizer, x: Any, y: Any,
                 order: Any) -> None:
        self._model, self._optimizer = model, optimizer
        self._given = jnp.asarray(x), jnp.asarray(y), jnp.asarray(order)
        self._step = compile_step(model, optimizer)
        self._evaluate = _compile_evaluation(model, optimizer)
        self._state = initial_state(model, optimizer)

    def step(self) -> None:
        self._state = self._step(self._state, *self._given)

    def loss(self) -> float:
        return float(self._state.loss)

    def evaluate(self, x: Any, y: Any) -> tuple[float, float]:
        loss, accuracy = self._evaluate(self._state, jnp.asarray(x), jnp.asarray(y))
        return float(loss), float(accuracy)

    def finish(self) -> None:
        state = self._state
        _assign(self._model.trainable_variables,
                final_values(self._model, self._optimizer, state.trainable, state.optimizer))
        _assign(self._model.non_trainable_variables, state.non_trainable)


def final_values(model: keras.Model, optimizer: keras.optimizers.Optimizer, trainable: Arrays,
                 optimizer_values: Arrays) -> Arrays:
    """The values that training would end with."""
    variables = [*model.trainable_variables, *optimizer.variables]
    values = [*trainable, *optimizer_values]
    with keras.StatelessScope(state_mapping=list(zip(variables, values))) as scope:
        optimizer.finalize_variable_values(model.trainable_variables)
    return [scope.get_current_value(variable) for variable in model.trainable_variables]


def initial_state(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> State:
    """What the variables hold now, in buffers of its own, since a step donates its state's."""
    return jax.tree.map(jnp.copy, State(
        jnp.int32(0), _values(model.trainable_variables), _values(model.non_trainable_variables),
        _values(optimizer.variables), jnp.float32(0)))


def compile_step(model: keras.Model, optimizer: keras.optimizers.Optimizer,
                 ) -> Callable[..., State]:
    """A function of state, images, labels and the order of examples that gives the next state."""

    example_losses, _ = measures(model)

    def loss(trainable: Arrays, non_trainable: Arrays, x: jax.Array, y: jax.Array):
        logits, non_trainable = model.stateless_call(trainable, non_trainable, x, training=True)
        return example_losses(y, logits).mean(), non_trainable

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: State, x: jax.Array, y: jax.Array, order: jax.Array) -> State:
        batch = order[state.step]
        (value, non_trainable), gradients = jax.value_and_grad(loss, has_aux=True)(
            state.trainable, state.non_trainable, x[batch], y[batch])
        trainable, optimizer_values = optimizer.stateless_apply(
            state.optimizer, gradients, state.trainable, **told(optimizer, value))
        return State(state.step + 1, trainable, non_trainable, optimizer_values, value)

    return step


def _compile_evaluation(model: keras.Model, optimizer: keras.optimizers.Optimizer,
                        ) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """A function of state and data that gives the mean loss and the accuracy."""
    example_losses, example_accuracies = measures(model)

    @jax.jit
    def evaluate(state: State, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        trainable = final_values(model, optimizer, state.trainable, state.optimizer)

        def totals(batch: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            images, labels = batch
            logits, _ = model.stateless_call(trainable, state.non_trainable, images, training=False)
            return example_losses(labels, logits).sum(), example_accuracies(labels, logits).sum()

        full = len(y) // EVALUATION_BATCH * EVALUATION_BATCH
        loss, correct = 0.0, 0.0
        if full:
            batches = [a[:full].reshape(-1, EVALUATION_BATCH, *a.shape[1:]) for a in (x, y)]
            losses, corrects = jax.lax.map(totals, tuple(batches))
            loss, correct = losses.sum(), corrects.sum()
        if full < len(y):
            last_loss, last_correct = totals((x[full:], y[full:]))
            loss, correct = loss + last_loss, correct + last_correct
        return loss / len(y), correct / len(y)

    return evaluate


def _values(variables: list[keras.Variable]) -> Arrays:
    return [variable.value for variable in variables]


def _assign(variables: list[keras.Variable], values: Arrays) -> None:
    for variable, value in zip(variables, values):
        variable.assign(value)
