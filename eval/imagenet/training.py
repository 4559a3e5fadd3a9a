"""A training run of an image classifier, from the latest checkpoint where there is one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import keras

from eval.imagenet import fitting, image_models, images
from eval.imagenet.devices import Devices
from eval.runs import optimizers
from hrnn_opt.training.callbacks import SwapLookahead


class ImageSizeError(ValueError):
    """Images that a network does not take."""


def _compiled(settings: Any, name: str, learning_rate: float | None, size: int, classes: int,
              devices: Devices) -> Any:
    """A new model with its optimizer."""
    keras.utils.set_random_seed(settings.seed)
    given: dict[str, Any] = {
        "gradient_accumulation_steps": settings.accumulate if settings.accumulate > 1 else None}
    if settings.ema is not None:
        given |= {"use_ema": True, "ema_momentum": settings.ema}
    if name == optimizers.LEARNED:
        given |= {"weights": settings.weights, "seed": settings.seed}
    with devices.scope():
        try:
            network = image_models.build(settings.model, size, classes)
        except ValueError as error:
            raise ImageSizeError(str(error).splitlines()[0]) from None
        model = devices.model(network)
        model.compile(
            optimizer=optimizers.build(
                name, learning_rate=learning_rate, schedule="constant", steps=settings.steps,
                **given),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            # Weighted, since the last batch of a validation is filled up.
            weighted_metrics=[
                keras.metrics.SparseCategoricalCrossentropy(
                    name="cross_entropy", from_logits=True),
                keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
                keras.metrics.SparseTopKCategoricalAccuracy(min(5, classes - 1), name="top_5"),
            ])
        model.optimizer.build(model.trainable_variables)
    return model


def train(settings: Any, name: str, learning_rate: float | None, size: int, source: Any,
          devices: Devices, every: int, log_every: int) -> dict[str, Any]:
    """One run; what is printed of it.

    Args:
        settings: has the flags of the command as attributes.
        name, learning_rate: of the optimizer.
        size: height and width of the images.
        source: of the images; one of `eval.imagenet.images`.
        devices: what it runs on.
        every: steps of an epoch.
        log_every: steps of a logged loss.

    Raises:
        ImageSizeError: the network takes no images of that size.
    """
    model = _compiled(settings, name, learning_rate, size, source.classes, devices)
    process, first = devices.process, devices.process.index == 0
    folder = Path(settings.out, name) if settings.out else None
    records: list[dict[str, Any]] = []
    start = 0
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        found = fitting.Checkpoint.find(folder)
        if found:
            start, path = found
            model.load_weights(path)
            records += json.loads((folder / f"records-{start}.json").read_text())
            print(f"{name}: going on from step {start}", file=sys.stderr)
    local = settings.batch_size // process.count
    common = {"image_size": size, "batch_size": local, "process": process}
    training = images.training(source, seed=settings.seed, start=start, **common)
    validation, batches = images.validation(
        source, examples=settings.validation_examples, **common)

    progress = fitting.Progress(
        name if first else "", log_every, settings.batch_size, records)
    callbacks: list[Any] = [progress, fitting.Validation(records)]
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if settings.ema is not None:
        callbacks.append(keras.callbacks.SwapEMAWeights())
    elif getattr(inner, "attends", False):
        callbacks.append(SwapLookahead())
    if folder:
        callbacks.append(fitting.Checkpoint(folder, records, writes=first))
    model.fit(training, epochs=settings.steps // every, steps_per_epoch=every,
              initial_epoch=start // every, validation_data=validation, validation_steps=batches,
              callbacks=callbacks, shuffle=False, verbose=0)
    if folder:
        fitting.save_together(
            getattr(model, "network", model).save, folder / "model.keras", writes=first)
    seconds = progress.seconds()
    skipped = int(inner.skipped_steps) if hasattr(inner, "skipped_steps") else None
    share = fitting.optimizer_seconds(model, devices.run)
    return {
        "optimizer": name,
        "final_loss": records[-1]["loss"],
        **{key[4:]: value for key, value in records[-1].items() if key.startswith("val_")},
        "images_per_second": seconds and settings.batch_size / seconds,
        "step_seconds": seconds,
        "optimizer_seconds": share,
        "optimizer_share": seconds and min(share / seconds, 1.0),
        "skipped_steps": skipped,
        "peak_memory_bytes": fitting.peak_memory(),
        "curve": [[record["step"], record["loss"]] for record in records],
    }
