"""What an optimizer may know of the training around it: the loss, and how many steps there will be.

Keras's optimizers are handed neither. The loss passes through an optimizer's `scale_loss` before
gradients are taken, in `fit` on every backend. On TensorFlow and PyTorch it is kept there until the
step. On JAX it is inside of the function that is differentiated, and must not leave it that way;
its value is handed out by the backward pass, which belongs to the program around.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import keras


class Loss:
    """The loss of the batch whose gradients come next; each replica on TensorFlow has its own."""

    def __init__(self) -> None:
        self._kept: dict[int, Any] = {}

    def keep(self, loss: Any) -> None:
        """Keep it until it is taken."""
        self._kept[threading.get_ident()] = loss

    def take(self) -> Any | None:
        """What was kept; None if nothing was."""
        return self._kept.pop(threading.get_ident(), None)

    def pass_through(self, loss: Any) -> Any:
        """The loss itself, which is kept on the way: at once, or on JAX when its derivative is
        taken."""
        backend = keras.backend.backend()
        if backend == "torch":
            self.keep(loss.detach())
            return loss
        if backend != "jax":
            self.keep(loss)
            return loss
        import jax

        @jax.custom_vjp
        def same(loss: Any) -> Any:
            return loss

        def backward(value: Any, upstream: Any) -> tuple[Any]:
            self.keep(value)
            return (upstream,)

        same.defvjp(lambda loss: (loss, loss), backward)
        return same(loss)


def steps_of_fit(optimizer: keras.optimizers.Optimizer) -> int | None:
    """How many batches the call of `fit` that is under way will train on, if it is one of a model
    with this optimizer, and can be known.

    Keras tells an optimizer nothing of it; it is read from the call itself.
    """
    frame = sys._getframe(1)
    while frame is not None:
        model = frame.f_locals.get("self")
        if frame.f_code.co_name == "fit" and isinstance(model, keras.Model):
            used = getattr(model, "optimizer", None)
            if optimizer in (used, getattr(used, "inner_optimizer", None)):
                return _steps(frame.f_locals)
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _steps(arguments: dict[str, Any]) -> int | None:
    batches = getattr(arguments.get("epoch_iterator"), "num_batches", None)
    if not isinstance(batches, int) or batches < 1:
        batches = arguments.get("steps_per_epoch")
    epochs, first = arguments.get("epochs"), arguments.get("initial_epoch") or 0
    if not isinstance(batches, int) or not isinstance(epochs, int) or epochs <= first:
        return None
    return batches * (epochs - first)


def over_replicas(loss: Any) -> Any:
    """The loss of the whole batch: on TensorFlow, each replica has the share of its part."""
    if keras.backend.backend() != "tensorflow":
        return loss
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return loss
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, loss)
