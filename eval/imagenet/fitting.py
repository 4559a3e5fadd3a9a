"""What goes along with `fit` in `python -m eval imagenet`: progress, checkpoints, and costs."""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from keras import ops

from hrnn_opt.files.atomic import write_atomic

CHECKPOINT = "checkpoint-{}.weights.h5"


class Progress(keras.callbacks.Callback):
    """Losses and speed, for windows of steps.

    Args:
        name: stands before each line on stderr; empty for no lines.
        every: steps in a window; it divides the steps of an epoch.
        batch_size: images a step, over all devices.
        records: windows of the run so far, as this callback has made them; it adds to them.

    Attributes:
        records: for each window, `step`, its last one, `loss`, the mean over it, and `seconds`,
            those of a step. None for windows of less than 2 steps, and the first, which compiles.
    """

    def __init__(self, name: str, every: int, batch_size: int, records: list[dict[str, Any]],
                 ) -> None:
        super().__init__()
        self.name, self.every, self.batch_size, self.records = name, every, batch_size, records
        self._first = True

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._step = epoch * self.params["steps"]
        self._sum = self._done = 0
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        done = batch + 1
        if done % self.every:
            return
        # Keras gives the mean over the epoch so far. To read it is to wait for the step.
        total = float(logs["loss"]) * done
        loss, self._sum = (total - self._sum) / self.every, total
        now = time.perf_counter()
        seconds = None if self._first else (now - self._began) / self.every
        self._first, self._began = False, now
        record = {"step": self._step + done, "loss": loss, "seconds": seconds}
        self.records.append(record)
        speed = f", {self.batch_size / seconds:.3g} images/s" if seconds else ""
        if self.name:
            print(f"{self.name} step {record['step']}: loss {loss:.4f}{speed}", file=sys.stderr)

    def seconds(self) -> float | None:
        """Median time of a step; None if too few were taken."""
        times = [r["seconds"] for r in self.records if r["seconds"] is not None]
        return statistics.median(times) if times else None


def save_together(save: Callable[[Path], Any], path: Path, writes: bool) -> None:
    """Save to a file that is there whole or not at all.

    On JAX, Keras makes variables while it saves, which is the work of all processes that train
    together: all call this.

    Args:
        save: writes to the path that it is given, by whose end it tells the format.
        path: where the file is to be.
        writes: whether this process is the one whose file is kept.
    """
    unfinished = f".unfinished{''.join(path.suffixes[-2:])}"
    if not writes:
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder, unfinished))
        return
    # Of one name: what a killed process left is written over.
    save(path.with_name(unfinished))
    os.replace(path.with_name(unfinished), path)


class Checkpoint(keras.callbacks.Callback):
    """Saves, at the end of each epoch, all that training goes on from.

    One file is renamed into place, with the step in its name, so that what is there is whole. It
    holds the model's variables, the optimizer's, and the states of random generators.

    Args:
        folder: of the checkpoint; there is at most one that counts, the latest.
        records: what the run has to tell so far, saved beside it.
        writes: see `save_together`.
    """

    def __init__(self, folder: Path, records: list[dict[str, Any]], writes: bool = True) -> None:
        super().__init__()
        self.folder, self.records, self.writes = folder, records, writes

    @staticmethod
    def find(folder: Path) -> tuple[int, Path] | None:
        """The step and the file of the latest checkpoint; None if there is none."""
        before, after = CHECKPOINT.split("{}")
        found = {
            int(path.name[len(before) : -len(after)]): path
            for path in folder.glob(CHECKPOINT.format("*"))}
        return max(found.items(), default=None)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        step = (epoch + 1) * self.params["steps"]
        path = self.folder / CHECKPOINT.format(step)
        if self.writes:
            write_atomic(self.folder / f"records-{step}.json", json.dumps(self.records).encode())
        save_together(self.model.save_weights, path, self.writes)
        if not self.writes:
            return
        for older in self.folder.glob(CHECKPOINT.format("*")):
            if older != path:
                older.unlink()
                number = older.name.split("-")[1].split(".")[0]
                (self.folder / f"records-{number}.json").unlink(missing_ok=True)


class Validation(keras.callbacks.Callback):
    """Adds what validation gave at the end of an epoch to the window that ended there."""

    def __init__(self, records: list[dict[str, Any]]) -> None:
        super().__init__()
        self.records = records

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.records[-1].update({
            name: float(value) for name, value in logs.items()
            if name.startswith("val_") and name != "val_loss"})


def optimizer_seconds(model: keras.Model, run: Callable[[Callable[[], Any]], Any],
                      repeats: int = 3) -> float:
    """The median time that the model's optimizer takes for a step. The model is of no use after.

    Args:
        model: a trained one.
        run: calls a function on each device.
        repeats: timed steps.
    """
    times = []
    step = _optimizer_step(model, run)
    step()
    for _ in range(repeats):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _optimizer_step(model: keras.Model, run: Callable[[Callable[[], Any]], Any]
                    ) -> Callable[[], None]:
    """A function that takes a step, by small gradients, and waits for it."""
    optimizer, variables = model.optimizer, model.trainable_variables
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        # After a moving average, the optimizer and the model hold the same arrays: none to give up.
        state = [[v.value for v in optimizer.variables], [v.value.copy() for v in variables]]

        def apply(held: Any, moved: Any) -> Any:
            return optimizer.stateless_apply(held, [1e-3 * x for x in moved], moved)

        compiled = jax.jit(apply, donate_argnums=(0, 1))

        def step() -> None:
            state[1], state[0] = compiled(*state)
            jax.block_until_ready(state)

        return step
    gradients = [1e-3 * ops.ones_like(v) for v in variables]
    if backend == "tensorflow":
        import tensorflow as tf

        @tf.function
        def graph() -> None:
            run(lambda: optimizer.apply(gradients, variables))

        def step() -> None:
            graph()
            float(ops.max(ops.convert_to_tensor(variables[-1])))

        return step
    import torch

    def step() -> None:
        with torch.no_grad():
            optimizer.apply(gradients, variables)
        float(ops.max(ops.convert_to_tensor(variables[-1])))

    return step


def peak_memory() -> dict[str, int]:
    """The most bytes that were in use: of an accelerator, where the backend says so, and of this
    process."""
    found = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        stats = jax.local_devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in stats:
            found["device"] = stats["peak_bytes_in_use"]
    elif backend == "tensorflow":
        import tensorflow as tf

        if tf.config.list_logical_devices("GPU"):
            found["device"] = tf.config.experimental.get_memory_info("GPU:0")["peak"]
    else:
        import torch

        if torch.cuda.is_available():
            found["device"] = torch.cuda.max_memory_allocated()
    return found
