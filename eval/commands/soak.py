"""Train a small network for very long, killed at random, and watch memory and numbers.

    python -m eval soak --backend jax --steps 100000

A worker process trains and writes a checkpoint (a `.keras` file) every --every steps; it is killed
(SIGKILL) at random moments and started again, and goes on from the last checkpoint. The exit code
is 0 if it ends, every number was finite, no step was skipped, and no worker's memory grew by more
than a tenth.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from absl import flags

from eval.commands import cli

OPTIONS = flags.FlagValues()
flags.DEFINE_enum("backend", "jax", ["jax", "tensorflow", "torch"], "Of Keras.",
                  flag_values=OPTIONS)
flags.DEFINE_integer("steps", 100_000, "Training steps.", lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_integer("every", 1000, "Steps from one checkpoint to the next.", lower_bound=1,
                     flag_values=OPTIONS)
flags.DEFINE_integer("kills", 5, "How often the worker is killed.", lower_bound=0,
                     flag_values=OPTIONS)
flags.DEFINE_integer("seed", 0, "Draws the moments of the kills.", lower_bound=0,
                     flag_values=OPTIONS)
flags.DEFINE_string("out", "runs/soak", "Folder of the checkpoint and the log; a soak that it "
                    "holds goes on.", flag_values=OPTIONS)
cli.define_json(OPTIONS)

BATCH_SIZE = 8
LARGEST_GROWTH = 0.1


def work(folder: Path, epochs: int, every: int, killed_by: int | None = None) -> None:
    """The worker: train up to an epoch, each of `every` steps, from the checkpoint if there is one.

    It adds a line to `log.jsonl` at the end of each epoch. A worker that is to be killed waits for
    that at the end of epoch `killed_by`: on a busy machine it would be done first.
    """
    import keras
    import numpy as np

    from eval.imagenet.fitting import save_together
    from hrnn_opt import HierarchicalLOpt

    checkpoint, parent = folder / "checkpoint.keras", os.getppid()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(every * BATCH_SIZE, 16)).astype("float32")
    y = np.argmax(x @ rng.normal(size=(16, 4)) + rng.gumbel(size=(len(x), 4)), axis=1)
    if checkpoint.exists():
        model = keras.saving.load_model(checkpoint)
    else:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([
            keras.Input((16,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(4)])
        model.compile(
            optimizer=HierarchicalLOpt(),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
            optimizer = self.model.optimizer
            numbers = [keras.ops.convert_to_numpy(v.value) for v in
                       [*self.model.variables, *optimizer.variables]]
            save_together(self.model.save, checkpoint, writes=True)
            line = {
                "step": int(optimizer.iterations), "loss": logs["loss"], "rss": memory(),
                "finite": all(bool(np.isfinite(array).all()) for array in numbers),
                "skipped": int(optimizer.skipped_steps), "pid": os.getpid(),
                "time": time.time()}
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            while killed_by is not None and epoch + 1 >= killed_by and os.getppid() == parent:
                time.sleep(0.02)

    done = int(model.optimizer.iterations) // every
    model.fit(x, y, batch_size=BATCH_SIZE, shuffle=False, initial_epoch=done, epochs=epochs,
              verbose=0, callbacks=[Watch()])


def memory() -> int:
    """Bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def read_log(folder: Path) -> list[dict]:
    """The lines of the log so far; the last may be cut short, by a kill."""
    path = folder / "log.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def growth(lines: list[dict]) -> float:
    """The largest growth of a worker's memory, from its second checkpoint to its last, as a share.

    At the first, the backend is still warming up.
    """
    workers: dict[int, list[int]] = {}
    for line in lines:
        workers.setdefault(line["pid"], []).append(line["rss"])
    return max((rss[-1] / rss[1] - 1 for rss in workers.values() if len(rss) > 2), default=0.0)


def soak(
    folder: Path, backend: str, steps: int, every: int, kills: int, seed: int = 0
) -> list[dict]:
    """Run the workers; the lines of their log.

    Raises:
        RuntimeError: if a worker ends by itself before its time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    epochs = -(-steps // every)
    rng = random.Random(seed)
    # An epoch to be killed in, and one to go on with, follow the last.
    moments = sorted(rng.uniform(0, max(0, epochs - 2)) for _ in range(kills))
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "eval.commands.soak", str(folder), str(epochs), str(every)]
    while True:
        killed_by = [str(math.ceil(moments[0]) + 1)] if moments else []
        worker = subprocess.Popen([*command, *killed_by], env=environment)
        try:
            while worker.poll() is None:
                lines = read_log(folder)
                if moments and len(lines) >= moments[0]:
                    moments.pop(0)
                    # Somewhere in an epoch, or in the writing of a checkpoint.
                    last = [line["time"] for line in lines[-2:]]
                    time.sleep(rng.uniform(0, last[-1] - last[0]) if last else 0)
                    worker.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.02)
        finally:
            worker.kill()
            worker.wait()
        if worker.returncode == 0:
            return read_log(folder)
        if worker.returncode != -signal.SIGKILL:
            raise RuntimeError(f"the worker ended with {worker.returncode}")


def main(argv: list[str]) -> int:
    """The command line."""
    cli.no_arguments(argv)
    lines = soak(Path(OPTIONS.out), OPTIONS.backend, OPTIONS.steps, OPTIONS.every, OPTIONS.kills,
                 OPTIONS.seed)
    report = {
        "steps": lines[-1]["step"], "workers": len({line["pid"] for line in lines}),
        "first_loss": lines[0]["loss"], "last_loss": lines[-1]["loss"],
        "finite": all(line["finite"] for line in lines), "skipped": lines[-1]["skipped"],
        "rss_mib": [round(line["rss"] / 2**20) for line in lines[:: max(1, len(lines) // 20)]],
        "largest_growth": round(growth(lines), 4)}
    if OPTIONS.json:
        cli.print_json(report)
    else:
        print(json.dumps(report, indent=2))
    good = report["finite"] and not report["skipped"] and (
        report["largest_growth"] <= LARGEST_GROWTH)
    return 0 if good else 1


if __name__ == "__main__":
    work(Path(sys.argv[1]), *map(int, sys.argv[2:]))
