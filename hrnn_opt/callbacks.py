"""Keras callbacks for training with `HierarchicalLOpt`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from hrnn_opt.optimizer import HierarchicalLOpt


class SwapLookahead(keras.callbacks.Callback):
    """Puts the true parameters into the model for evaluation, and the attended location back.

    With lookahead, and with averaging, the model's variables hold, between steps, the location at
    which the next gradient is taken. This callback lets evaluation and prediction inside `fit` see
    the parameters themselves. The end of training needs no callback: `fit` leaves the true
    parameters in the model. To evaluate their moving average, use `keras.callbacks.SwapEMAWeights`
    in its place.

    Args:
        swap_on_epoch: also from the end of an epoch to the beginning of the next, so that callbacks
            after this one (`ModelCheckpoint`, say) see the true parameters. Training that is
            resumed from such a checkpoint takes its first gradient at them.

    Raises:
        ValueError: at the first swap, if the model's optimizer is no `HierarchicalLOpt` with
            lookahead or averaging and has none inside.

    Example:

    >>> model.fit(x, y, validation_data=(u, v), callbacks=[SwapLookahead()])
    """

    def __init__(self, swap_on_epoch: bool = False) -> None:
        super().__init__()
        self.swap_on_epoch = swap_on_epoch
        # The attended locations for each optimizer, while the true parameters are in.
        self._attended: list[list[np.ndarray]] | None = None

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        # A run that was interrupted by an error has left the true parameters in, for good.
        self._attended = None

    def _optimizers(self) -> list[HierarchicalLOpt]:
        outer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        found = [
            optimizer for optimizer in getattr(outer, "optimizers", [outer])
            if isinstance(optimizer, HierarchicalLOpt) and optimizer.attends
        ]
        if not found:
            raise ValueError(
                "`SwapLookahead` needs a model compiled with HierarchicalLOpt with lookahead or "
                "averaging, got "
                f"{type(outer).__name__}.")
        return found

    def _put_true(self) -> None:
        if self._attended is not None:
            return
        self._attended = []
        for optimizer in self._optimizers():
            self._attended.append(
                [np.array(ops.convert_to_numpy(v)) for v in optimizer._trainable_variables])
            optimizer.put_true_parameters()

    def _put_attended(self) -> None:
        if self._attended is None:
            return
        for optimizer, locations in zip(self._optimizers(), self._attended):
            optimizer.put_attended(locations)
        self._attended = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self.swap_on_epoch:
            self._put_attended()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.swap_on_epoch:
            self._put_true()

    def on_train_end(self, logs: Any = None) -> None:
        # `fit` has left the true parameters in the model.
        self._attended = None

    def on_test_begin(self, logs: Any = None) -> None:
        self._put_true()

    def on_test_end(self, logs: Any = None) -> None:
        self._put_attended()

    def on_predict_begin(self, logs: Any = None) -> None:
        self._put_true()

    def on_predict_end(self, logs: Any = None) -> None:
        self._put_attended()
