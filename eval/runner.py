"""One training run on the JAX backend, with Keras's own model and optimizer.

A step is one compiled function that takes and returns all variables. It is called from Python: on a
CPU this costs 0.1 ms, while convolutions inside `lax.scan` were measured nine times slower than
outside, and a scan saved an MLP's step only a quarter.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import keras
import numpy as np

from eval.data import Data

EVALUATION_BATCH = 500
# How many steps may pass before a run that has diverged is stopped, or progress is reported.
CHECK_EVERY = 100

Arrays = list[jax.Array]


class State(NamedTuple):
    """All that changes while training: what Keras's variables hold, and the last batch's loss."""

    step: jax.Array
    trainable: Arrays
    non_trainable: Arrays
    optimizer: Arrays
    loss: jax.Array


def evaluation_steps(steps: int) -> list[int]:
    """The steps at which the curve has a point: 50, 100, 200, 500, ... , every 1,000, the last."""
    spaced = {m * 10**e for e in range(1, 9) for m in (1, 2, 5)}
    return sorted(
        s for s in {*spaced, *range(1000, steps, 1000), steps} if 50 <= s < steps or s == steps)


def minibatches(examples: int, batch_size: int, steps: int, seed: int) -> np.ndarray:
    """Which examples each step sees: drawn without replacement, reshuffled every epoch.

    The rest of an epoch that fills no batch is left out.

    Returns:
        Indices of shape (steps, batch_size).
    """
    per_epoch = examples // batch_size
    if not per_epoch:
        raise ValueError(f"`batch_size` must be at most {examples}, got {batch_size}.")
    rng = np.random.default_rng(seed)
    epochs = [
        rng.permutation(examples)[: per_epoch * batch_size].reshape(per_epoch, batch_size)
        for _ in range(math.ceil(steps / per_epoch))
    ]
    return np.concatenate(epochs)[:steps].astype("int32")


def example_losses(targets: jax.Array, logits: jax.Array) -> jax.Array:
    """(B,) the loss of each example, a mean over its positions: the softmax cross entropy where
    targets are whole numbers, (B, ...) for logits of one more axis; the logistic one of each pixel
    where they are pixels in [0, 1]."""
    if jnp.issubdtype(targets.dtype, jnp.integer):
        losses = keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)
    else:
        losses = jax.nn.softplus(logits) - targets * logits
    return losses.reshape(len(targets), -1).mean(-1)


def example_accuracies(targets: jax.Array, logits: jax.Array) -> jax.Array:
    """(B,) the share of an example's positions that are right, pixels up to their half."""
    if jnp.issubdtype(targets.dtype, jnp.integer):
        right = jnp.argmax(logits, -1) == targets
    else:
        right = (logits > 0) == (targets > 0.5)
    return right.reshape(len(targets), -1).mean(-1)


def final_values(model: keras.Model, optimizer: keras.optimizers.Optimizer, trainable: Arrays,
                 optimizer_values: Arrays) -> Arrays:
    """The values that training would end with: those to evaluate.

    The model's variables may hold another location between steps (lookahead) or not yet the one to
    keep (a moving average); Keras asks the optimizer for the latter when training ends.
    """
    variables = [*model.trainable_variables, *optimizer.variables]
    values = [*trainable, *optimizer_values]
    with keras.StatelessScope(state_mapping=list(zip(variables, values))) as scope:
        optimizer.finalize_variable_values(model.trainable_variables)
    return [scope.get_current_value(variable) for variable in model.trainable_variables]


def train(model: keras.Model, optimizer: keras.optimizers.Optimizer, data: Data, *, steps: int,
          batch_size: int, seed: int, on_progress: Callable[[int], Any] | None = None,
          ) -> dict[str, Any]:
    """Train a network and leave the trained values in the model.

    The run stops early, as diverged, when the loss is no longer finite.

    Args:
        model: maps inputs to logits of what `example_losses` takes as targets.
        optimizer: a Keras optimizer, not built yet.
        data: what to train and test on.
        steps: number of steps.
        batch_size: examples a step.
        seed: draws the minibatches.
        on_progress: called now and then with the number of steps done.

    Returns:
        `final_training_loss`, the mean over the whole training set (None if diverged);
        `test_accuracy` (likewise); `curve`, pairs of step and training loss; `diverged`; `seconds`.
    """
    if keras.backend.backend() != "jax":
        raise RuntimeError("training runs need KERAS_BACKEND=jax.")
    began = time.perf_counter()
    optimizer.build(model.trainable_variables)
    step = compile_step(model, optimizer)
    evaluate = _compile_evaluation(model, optimizer)
    state = initial_state(model, optimizer)
    order = jnp.asarray(minibatches(len(data.y_train), batch_size, steps, seed))
    train_set = jnp.asarray(data.x_train), jnp.asarray(data.y_train)
    test_set = jnp.asarray(data.x_test), jnp.asarray(data.y_test)

    curve: list[list[float]] = []
    diverged = False
    evaluations = set(evaluation_steps(steps))
    for done in range(1, steps + 1):
        state = step(state, *train_set, order)
        if done in evaluations:
            loss, _ = evaluate(state, *train_set)
            diverged = not math.isfinite(loss)
            if not diverged:
                curve.append([done, float(loss)])
        elif done % CHECK_EVERY == 0:
            diverged = not math.isfinite(state.loss)
        if on_progress and (done % CHECK_EVERY == 0 or done == steps):
            on_progress(done)
        if diverged:
            break
    accuracy = None if diverged else round(float(evaluate(state, *test_set)[1]), 6)
    _assign(model.trainable_variables,
            final_values(model, optimizer, state.trainable, state.optimizer))
    _assign(model.non_trainable_variables, state.non_trainable)
    return {
        "final_training_loss": None if diverged else curve[-1][1],
        "test_accuracy": accuracy,
        "curve": curve,
        "diverged": diverged,
        "seconds": round(time.perf_counter() - began, 2),
    }


def initial_state(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> State:
    """What the variables hold now, in buffers of its own, since a step donates its state's."""
    return jax.tree.map(jnp.copy, State(
        jnp.int32(0), _values(model.trainable_variables), _values(model.non_trainable_variables),
        _values(optimizer.variables), jnp.float32(0)))


def compile_step(model: keras.Model, optimizer: keras.optimizers.Optimizer,
                  ) -> Callable[..., State]:
    """A function of state, images, labels and the order of examples that gives the next state."""

    def loss(trainable: Arrays, non_trainable: Arrays, x: jax.Array, y: jax.Array):
        logits, non_trainable = model.stateless_call(trainable, non_trainable, x, training=True)
        return example_losses(y, logits).mean(), non_trainable

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: State, x: jax.Array, y: jax.Array, order: jax.Array) -> State:
        batch = order[state.step]
        (value, non_trainable), gradients = jax.value_and_grad(loss, has_aux=True)(
            state.trainable, state.non_trainable, x[batch], y[batch])
        trainable, optimizer_values = optimizer.stateless_apply(
            state.optimizer, gradients, state.trainable)
        return State(state.step + 1, trainable, non_trainable, optimizer_values, value)

    return step


def _compile_evaluation(model: keras.Model, optimizer: keras.optimizers.Optimizer,
                        ) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """A function of state and data that gives the mean loss and the accuracy."""

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
