"""Keras callbacks for training with learned optimizers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from hrnn_opt.checks import require_count
from hrnn_opt.training import dynamics
from hrnn_opt.training.optimizer import LearnedOpt
from hrnn_opt.training.statistics import refresh_statistics


def _compiled(model: keras.Model) -> keras.optimizers.Optimizer | None:
    """The model's optimizer, without the loss scaling around it."""
    return getattr(model.optimizer, "inner_optimizer", model.optimizer)


def _learned(model: keras.Model) -> list[LearnedOpt]:
    """The learned optimizers among those that the model is compiled with."""
    outer = _compiled(model)
    return [
        optimizer for optimizer in getattr(outer, "optimizers", [outer])
        if isinstance(optimizer, LearnedOpt)]


class SwapLookahead(keras.callbacks.Callback):
    """Puts the true parameters into the model for evaluation, and the attended location back.

    With lookahead, the model's variables hold, between steps, the location at which the next
    gradient is taken. This callback lets evaluation and prediction inside `fit` see the parameters
    themselves, and keeps them in from there to the beginning of the next epoch: what other
    callbacks show, save or restore, wherever they stand, is then one thing. The end of training
    needs no callback: `fit` leaves the true parameters in the model. To evaluate their moving
    average, use `keras.callbacks.SwapEMAWeights` in its place.

    Without lookahead there is nothing to swap, and the callback does nothing.

    Args:
        swap_on_epoch: also where an epoch ends without validation. Training that is resumed from a
            checkpoint of true parameters takes its first gradient at them.

    Raises:
        ValueError: at the first swap, if the model's optimizer is no `LearnedOpt` and has none
            inside.

    Example:

    >>> model.fit(x, y, validation_data=(u, v), callbacks=[SwapLookahead()])
    """

    def __init__(self, swap_on_epoch: bool = False) -> None:
        super().__init__()
        self.swap_on_epoch = swap_on_epoch
        self._training = False
        # The attended locations for each optimizer, while the true parameters are in.
        self._attended: list[list[np.ndarray]] | None = None

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        # A run that was interrupted by an error has left the true parameters in, for good.
        self._attended, self._training = None, False

    def _optimizers(self) -> list[LearnedOpt]:
        found = _learned(self.model)
        if not found:
            raise ValueError(
                "`SwapLookahead` needs a model compiled with LearnedOpt, got "
                f"{type(_compiled(self.model)).__name__}.")
        return [optimizer for optimizer in found if optimizer.attends]

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

    def on_train_begin(self, logs: Any = None) -> None:
        self._training = True

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._put_attended()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.swap_on_epoch:
            self._put_true()

    def on_train_end(self, logs: Any = None) -> None:
        # `fit` has left the true parameters in the model.
        self._attended, self._training = None, False

    def on_test_begin(self, logs: Any = None) -> None:
        self._put_true()

    def on_test_end(self, logs: Any = None) -> None:
        if not self._training:
            self._put_attended()

    def on_predict_begin(self, logs: Any = None) -> None:
        self._put_true()

    def on_predict_end(self, logs: Any = None) -> None:
        if not self._training:
            self._put_attended()


class RefreshStatistics(keras.callbacks.Callback):
    """Takes the statistics of batch normalization anew before each evaluation inside `fit`, and at
    its end: `hrnn_opt.training.statistics.refresh_statistics` says why.

    Args:
        data: as of `refresh_statistics`; gone through at each evaluation.
        batch_size: of arrays.

    Example:

    >>> model.fit(x, y, validation_data=(u, v), callbacks=[RefreshStatistics(x[:2000])])
    """

    def __init__(self, data: Any, batch_size: int = 32) -> None:
        super().__init__()
        self.data = data
        self.batch_size = batch_size
        self._training = False

    def on_train_begin(self, logs: Any = None) -> None:
        self._training = True

    def on_test_begin(self, logs: Any = None) -> None:
        if self._training:
            refresh_statistics(self.model, self.data, self.batch_size)

    def on_train_end(self, logs: Any = None) -> None:
        self._training = False
        refresh_statistics(self.model, self.data, self.batch_size)


class LearningRateDynamics(keras.callbacks.Callback):
    """Logs for TensorBoard what the learned optimizer does to each tensor, and overall.

    Effective learning rates, sizes of updates and parameters, momentum time scales, gradient signal
    against noise, the states of the RNNs, the distance of lookahead or averaging, and skipped
    steps, as far as the kind of network has them: `hrnn_opt.training.dynamics` says what each
    means. `tensorboard --logdir LOG_DIR` shows them;
    `python -m eval dynamics LOG_DIR` draws the learning rates.

    It needs the `tensorboard` package, not TensorFlow. Between the batches that are logged, it
    costs nothing; at these, a copy of the parameters, which are compared with what they were before
    the batch. That is not known of a first batch that builds the optimizer. A batch in which no
    step is taken (gradient accumulation) has an update of 0; with `steps_per_execution`, an update
    is that of all batches of one execution.

    Args:
        log_dir: folder of the event file. Where a model has several learned optimizers
            (`MultiOptimizer`), each has a folder there: 0, 1 and so on.
        every: batches from one to the next that is logged. They are counted on from the optimizer's
            `iterations`, so that a resumed run follows on the first.
        histograms: also of the effective log learning rates.

    Raises:
        ValueError: if `every` is no positive integer; at the beginning of training, if the model's
            optimizer is no `LearnedOpt` and has none inside.
        ImportError: without the `tensorboard` package.

    Example:

    >>> model.fit(x, y, callbacks=[LearningRateDynamics("logs")])
    """

    def __init__(
        self, log_dir: str | os.PathLike[str], every: int = 100, histograms: bool = True
    ) -> None:
        super().__init__()
        require_count("every", every, 1)
        try:
            from hrnn_opt.training.events import EventWriter
        except ImportError as error:
            raise ImportError(
                "`LearningRateDynamics` needs the package `tensorboard`: pip install tensorboard."
            ) from error
        self.log_dir = log_dir
        self.every = every
        self.histograms = histograms
        self._new_writer = EventWriter

    def on_train_begin(self, logs: Any = None) -> None:
        optimizers = _learned(self.model)
        if not optimizers:
            raise ValueError(
                "`LearningRateDynamics` needs a model compiled with LearnedOpt, got "
                f"{type(_compiled(self.model)).__name__}.")
        folders = (
            [Path(self.log_dir)] if len(optimizers) == 1
            else [Path(self.log_dir, str(i)) for i in range(len(optimizers))])
        self._writers = [self._new_writer(folder) for folder in folders]
        # Not `iterations`, which are steps where gradients are accumulated over batches.
        self._batches = int(ops.convert_to_numpy(optimizers[0]._iterations))
        self._at_once = self.model.steps_per_execution

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        before = self._batches
        self._batches += self._at_once
        self._due = self._batches // self.every > before // self.every
        if self._due:
            # On JAX, `self.model` brings the variables up to date, which are old between the
            # batches of an epoch: so not at every batch.
            self._before = [
                dynamics.true_parameters(optimizer) if optimizer.built else None
                for optimizer in _learned(self.model)]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self._due:
            return
        for writer, optimizer, before in zip(self._writers, _learned(self.model), self._before):
            if not optimizer._members:
                continue
            scalars, histograms = dynamics.measure(optimizer, before)
            writer.write(self._batches, scalars, histograms if self.histograms else None)
        # A copy of all parameters.
        del self._before

    def on_train_end(self, logs: Any = None) -> None:
        for writer in self._writers:
            writer.close()
