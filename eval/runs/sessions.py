"""Starts a network in training, on any backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from eval.runs.losses import measures
from eval.runs.optimizers import told
from eval.runs.session import EVALUATION_BATCH, Session
from hrnn_opt.places.backend import no_gradient


def start(model: keras.Model, optimizer: keras.optimizers.Optimizer, x: np.ndarray, y: np.ndarray,
          order: np.ndarray) -> Session:
    """A network in training.

    Args:
        model: maps inputs to logits of what `example_losses` takes as targets.
        optimizer: built on its trainable variables.
        x, y: the training set.
        order: (steps, B) which of its examples each step sees.
    """
    if keras.backend.backend() == "jax":
        from eval.runs.jax_session import JaxSession

        return JaxSession(model, optimizer, x, y, order)
    return _VariablesSession(model, optimizer, x, y, order)


class _VariablesSession:
    """TensorFlow and PyTorch, where Keras's variables hold what changes."""

    def __init__(self, model: keras.Model, optimizer: keras.optimizers.Optimizer, x: np.ndarray,
                 y: np.ndarray, order: np.ndarray) -> None:
        self._model, self._optimizer = model, optimizer
        self._losses, self._accuracies = measures(model)
        self._x, self._y = ops.convert_to_tensor(x), ops.convert_to_tensor(y)
        self._order = iter(order)
        self._variables = [*model.variables, *optimizer.variables]
        self._train, self._totals = self._trained, self._summed
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            self._train, self._totals = tf.function(self._trained), tf.function(self._summed)

    def _trained(self, batch: Any) -> Any:
        x, y = ops.take(self._x, batch, axis=0), ops.take(self._y, batch, axis=0)
        loss, gradients = _value_and_gradients(
            self._model, lambda: ops.mean(self._losses(y, self._model(x, training=True))))
        self._optimizer.apply(
            gradients, self._model.trainable_variables, **told(self._optimizer, loss))
        return loss

    def _summed(self, x: Any, y: Any) -> tuple[Any, Any]:
        with no_gradient():
            logits = self._model(x, training=False)
            return ops.sum(self._losses(y, logits)), ops.sum(self._accuracies(y, logits))

    def step(self) -> None:
        self._loss = self._train(ops.convert_to_tensor(next(self._order)))

    def loss(self) -> float:
        return float(self._loss)

    def evaluate(self, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
        held = [np.array(ops.convert_to_numpy(variable)) for variable in self._variables]
        self.finish()
        sums = np.zeros(2)
        for first in range(0, len(y), EVALUATION_BATCH):
            part = slice(first, first + EVALUATION_BATCH)
            totals = self._totals(ops.convert_to_tensor(x[part]), ops.convert_to_tensor(y[part]))
            sums += [float(total) for total in totals]
        for variable, value in zip(self._variables, held):
            variable.assign(value)
        return tuple((sums / len(y)).tolist())

    def finish(self) -> None:
        self._optimizer.finalize_variable_values(self._model.trainable_variables)


def _value_and_gradients(model: keras.Model, function: Callable[[], Any]) -> tuple[Any, list[Any]]:
    """What a function gives, and its gradients by the model's trainable variables."""
    variables = model.trainable_variables
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = function()
        return value, tape.gradient(value, [variable.value for variable in variables])
    model.zero_grad()
    value = function()
    value.backward()
    return value.detach(), [variable.value.grad for variable in variables]
