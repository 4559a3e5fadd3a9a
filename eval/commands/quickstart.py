"""Train small convnets on real digits with HierarchicalLOpt, beside Adam, and compare.

A demonstration, and no evidence: the digits, scikit-learn's 1,797 images of 8 x 8 pixels, are among
the data that constants were chosen on and weights are meta-trained on. Nothing is downloaded. It
leaves a plot and TensorBoard logs in --out.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import rich
import rich.table
from absl import flags
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from eval.commands import cli
from eval.runs.data import Data
from hrnn_opt import HierarchicalLOpt
from hrnn_opt.training.events import EventWriter
from train import progress

OPTIONS = flags.FlagValues()
flags.DEFINE_string("out", "quickstart_output", "Folder for the plot and the logs.",
                    flag_values=OPTIONS)
flags.DEFINE_integer("epochs", 15, "Passes over the training set.", lower_bound=1,
                     flag_values=OPTIONS)
flags.DEFINE_list("seeds", ["0", "1", "2"], "A run each: start values and order of the images.",
                  flag_values=OPTIONS)
cli.define_json(OPTIONS)

BATCH_SIZE = 32
# Colour-blind safe (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00")


@dataclasses.dataclass
class Trained:
    """What one optimizer reached, a number a seed; curves have a list of epochs for each."""

    name: str
    train_loss: list[float]
    test_accuracy: list[float]
    seconds: list[float]
    losses: list[list[float]]
    accuracies: list[list[float]]


def digits() -> Data:
    """The digits, a fifth of them to test on."""
    x, y = load_digits(return_X_y=True)
    images = (x.reshape(-1, 8, 8, 1) / 16).astype("float32")
    x_train, x_test, y_train, y_test = train_test_split(
        images, y, test_size=0.2, random_state=0, stratify=y)
    return Data(x_train, y_train, x_test, y_test)


def convnet() -> keras.Model:
    """Two convolutions and an affine layer: 8,000 parameters."""
    return keras.Sequential([
        keras.Input((8, 8, 1)),
        layers.Conv2D(16, 3, padding="same", activation="relu"),
        layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
        layers.Flatten(),
        layers.Dense(10),
    ])


class _Watch(keras.callbacks.Callback):
    """Progress with the time left on stderr, and the logs as TensorBoard reads them."""

    def __init__(self, name: str, logs: Path, total: int) -> None:
        super().__init__()
        self.bar = progress.bar(total=total, desc=name, unit="step")
        self.writer = EventWriter(logs)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.bar.update()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.bar.set_postfix_str(f"loss {logs['loss']:.4f}")
        self.writer.write(epoch + 1, {
            "train/loss": logs["loss"], "test/loss": logs["val_loss"],
            "test/accuracy": logs["val_accuracy"]})

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self.bar.close()
        self.writer.close()


def train(name: str, make: Callable[[int], keras.optimizers.Optimizer], data: Data, *,
          epochs: int, seeds: list[int], logs: Path) -> Trained:
    """Train a new convnet for each seed, with everything but the optimizer the same."""
    runs = [_run(name, make(seed), data, epochs, seed, logs / name / str(seed)) for seed in seeds]
    return Trained(name, *(list(values) for values in zip(*runs)))


def _run(name: str, optimizer: keras.optimizers.Optimizer, data: Data, epochs: int, seed: int,
         logs: Path) -> tuple[float, float, float, list[float], list[float]]:
    keras.utils.set_random_seed(seed)
    model = convnet()
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    steps = epochs * -(-len(data.y_train) // BATCH_SIZE)
    callbacks: list[keras.callbacks.Callback] = [_Watch(f"{name:>16} {seed}", logs, steps)]
    began = time.perf_counter()
    history = model.fit(
        data.x_train, data.y_train, batch_size=BATCH_SIZE, epochs=epochs, verbose=0,
        validation_data=(data.x_test, data.y_test), callbacks=callbacks).history
    seconds = time.perf_counter() - began
    train_loss, _ = model.evaluate(data.x_train, data.y_train, verbose=0)
    return (train_loss, history["val_accuracy"][-1], seconds, history["loss"],
            history["val_accuracy"])


def plot(results: list[Trained], path: Path) -> None:
    """Draw the training losses and the test errors over epochs: medians, and the range of seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    # An error of 0 has no place on a log axis; 0.1 % is less than one image.
    errors = [np.maximum(100 * (1 - np.array(r.accuracies)), 0.1) for r in results]
    panels = (("training loss", [np.array(r.losses) for r in results]), ("test error (%)", errors))
    for axis, (title, curves) in zip(axes, panels):
        medians = [np.median(of_seeds, axis=0) for of_seeds in curves]
        for of_seeds, median, colour in zip(curves, medians, COLOURS):
            epochs = np.arange(1, len(median) + 1)
            axis.plot(epochs, median, color=colour, linewidth=2)
            axis.fill_between(epochs, of_seeds.min(0), of_seeds.max(0), color=colour, alpha=0.2,
                              linewidth=0)
        ends = _apart([median[-1] for median in medians])
        for result, end, colour in zip(results, ends, COLOURS):
            axis.annotate(result.name, (len(result.losses[0]), end), xytext=(6, 0), color=colour,
                          textcoords="offset points", va="center", annotation_clip=False)
        axis.set(yscale="log", xlabel="epoch", title=title)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter("{x:g}")
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.02)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _apart(ends: list[float], ratio: float = 1.35) -> list[float]:
    """The heights for two labels on a log axis, moved apart where they would overlap."""
    low, high = sorted(ends)
    if high / low >= ratio:
        return ends
    middle = (low * high) ** 0.5
    shift = ratio ** 0.5 if ends[0] >= ends[1] else ratio ** -0.5
    return [middle * shift, middle / shift]


def _mean(values: list[float], form: str) -> str:
    """The mean over seeds, and the standard deviation where there are several."""
    spread = f" ({np.std(values, ddof=1):{form}})" if len(values) > 1 else ""
    return f"{np.mean(values):{form}}{spread}"


def _keep_programs(folder: str) -> None:
    """On JAX: the program of the first seed serves the others, which would compile it anew."""
    if keras.backend.backend() == "jax":
        import jax

        if not jax.config.jax_compilation_cache_dir:
            jax.config.update("jax_compilation_cache_dir", folder)
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def main(argv: list[str]) -> None:
    """The command line."""
    cli.no_arguments(argv)
    out = Path(OPTIONS.out)
    data = digits()
    seeds = cli.integers(OPTIONS, "seeds", 0)
    optimizers = {"HierarchicalLOpt": lambda seed: HierarchicalLOpt(seed=seed),
                  "Adam": lambda seed: keras.optimizers.Adam()}
    with tempfile.TemporaryDirectory() as programs:
        _keep_programs(programs)
        results = [
            train(name, make, data, epochs=OPTIONS.epochs, seeds=seeds, logs=out / "logs")
            for name, make in optimizers.items()]
    plot(results, out / "curves.png")
    if OPTIONS.json:
        cli.print_json({result.name: dataclasses.asdict(result) for result in results})
        return
    table = rich.table.Table("optimizer", "train loss", "test accuracy", "seconds")
    for result in results:
        table.add_row(
            result.name, _mean(result.train_loss, ".2g"), _mean(result.test_accuracy, ".1%"),
            f"{sum(result.seconds):.1f}")
    rich.print(table)
    print(f"Means of {len(seeds)} seeds, in brackets their standard deviation.")
    print("HierarchicalLOpt made the steps of `rule`, which was designed; `default`, its weights, "
          "has learned nothing. A demonstration: constants were chosen on these digits, too.")
    print(f"plot: {out / 'curves.png'}\nlogs: tensorboard --logdir {out / 'logs'}")
