"""Keras callbacks for training with `HierarchicalLOpt`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from hrnn_opt.optimizer import HierarchicalLOpt


class SwapLookahead(keras.callbacks.Callback):
    """Puts the true parameters into the model for evaluation, and the attended location back.

    With lookahead the model's variables hold, between steps, the location at which the next
    gradient is taken. This callback lets evaluation and prediction inside `fit` see the parameters
    themselves. The end of training needs no callback: `fit` leaves the true parameters in the
    model. With a moving average use `keras.callbacks.SwapEMAWeights` in its place: the average is
    one of true parameters.

    Args:
        swap_on_epoch: also from the end of an epoch to the beginning of the next, so that callbacks
            after this one (`ModelCheckpoint`, say) see the true parameters.

    Raises:
        ValueError: at the first swap, if the model's optimizer is no `HierarchicalLOpt` with
            lookahead.

    Example:

    >>> model.fit(x, y, validation_data=(u, v), callbacks=[SwapLookahead()])
    """

    def __init__(self, swap_on_epoch: bool = False) -> None:
        super().__init__()
        self.swap_on_epoch = swap_on_epoch
        self._attended: list[np.ndarray] | None = None

    def _optimizer(self) -> HierarchicalLOpt:
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        if not isinstance(optimizer, HierarchicalLOpt) or not optimizer.lookahead:
            raise ValueError(
                "`SwapLookahead` needs a model compiled with HierarchicalLOpt with lookahead, got "
                f"{type(optimizer).__name__}.")
        return optimizer

    def _true_in(self) -> None:
        optimizer = self._optimizer()
        if self._attended is not None or not optimizer.built:
            return
        variables = optimizer._trainable_variables
        self._attended = [np.array(ops.convert_to_numpy(variable)) for variable in variables]
        for variable, value in zip(variables, optimizer.true_parameters()):
            variable.assign(value)

    def _attended_in(self) -> None:
        if self._attended is None:
            return
        for variable, value in zip(self._optimizer()._trainable_variables, self._attended):
            variable.assign(value)
        self._attended = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self.swap_on_epoch:
            self._attended_in()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.swap_on_epoch:
            self._true_in()

    def on_train_end(self, logs: Any = None) -> None:
        # `fit` has left the true parameters in the model.
        self._attended = None

    def on_test_begin(self, logs: Any = None) -> None:
        self._true_in()

    def on_test_end(self, logs: Any = None) -> None:
        self._attended_in()

    def on_predict_begin(self, logs: Any = None) -> None:
        self._true_in()

    def on_predict_end(self, logs: Any = None) -> None:
        self._attended_in()
