"""Train a small convnet on real digits with HierarchicalLOpt, beside Adam, and compare.

A demonstration, and no evidence: the digits, scikit-learn's 1,797 images of 8 x 8 pixels, are among
the data that constants were chosen on and weights are meta-trained on. Nothing is downloaded. It
leaves a plot and TensorBoard logs in --out.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import keras
import numpy as np
import rich
import rich.table
import tqdm
from absl import flags
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from eval.commands import cli
from eval.runs.data import Data
from hrnn_opt import HierarchicalLOpt
from hrnn_opt.training.events import EventWriter

OPTIONS = flags.FlagValues()
flags.DEFINE_string("out", "quickstart_output", "Folder for the plot and the logs.",
                    flag_values=OPTIONS)
flags.DEFINE_integer("epochs", 15, "Passes over the training set.", lower_bound=1,
                     flag_values=OPTIONS)
flags.DEFINE_integer("seed", 0, "Draws the start values and the order of the images.",
                     lower_bound=0, flag_values=OPTIONS)
cli.define_json(OPTIONS)

BATCH_SIZE = 32
# Colour-blind safe (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00")


@dataclasses.dataclass
class Trained:
    """What one optimizer reached: per epoch, and in the end."""

    name: str
    train_loss: float
    test_accuracy: float
    seconds: float
    losses: list[float]
    accuracies: list[float]


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
        self.bar = tqdm.tqdm(total=total, desc=f"{name:>16}", unit="step")
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


def train(optimizer: keras.optimizers.Optimizer, data: Data, *, epochs: int, seed: int,
          logs: Path) -> Trained:
    """Train a new convnet, with everything but the optimizer the same."""
    name = type(optimizer).__name__
    keras.utils.set_random_seed(seed)
    model = convnet()
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    steps = epochs * -(-len(data.y_train) // BATCH_SIZE)
    callbacks: list[keras.callbacks.Callback] = [_Watch(name, logs / name, steps)]
    began = time.perf_counter()
    history = model.fit(
        data.x_train, data.y_train, batch_size=BATCH_SIZE, epochs=epochs, verbose=0,
        validation_data=(data.x_test, data.y_test), callbacks=callbacks).history
    seconds = time.perf_counter() - began
    train_loss, _ = model.evaluate(data.x_train, data.y_train, verbose=0)
    return Trained(name, train_loss, history["val_accuracy"][-1], seconds, history["loss"],
                   history["val_accuracy"])


def plot(results: list[Trained], path: Path) -> None:
    """Draw the training losses and the test errors over epochs."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    # An error of 0 has no place on a log axis; 0.1 % is less than one image.
    errors = [[max(100 * (1 - accuracy), 0.1) for accuracy in r.accuracies] for r in results]
    panels = (("training loss", [r.losses for r in results]), ("test error (%)", errors))
    for axis, (title, curves) in zip(axes, panels):
        for curve, colour in zip(curves, COLOURS):
            epochs = np.arange(1, len(curve) + 1)
            axis.plot(epochs, curve, color=colour, linewidth=2)
        ends = _apart([curve[-1] for curve in curves])
        for result, end, colour in zip(results, ends, COLOURS):
            axis.annotate(result.name, (len(result.losses), end), xytext=(6, 0), color=colour,
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


def main(argv: list[str]) -> None:
    """The command line."""
    cli.no_arguments(argv)
    out = Path(OPTIONS.out)
    data = digits()
    optimizers = [HierarchicalLOpt(seed=OPTIONS.seed), keras.optimizers.Adam()]
    results = [
        train(optimizer, data, epochs=OPTIONS.epochs, seed=OPTIONS.seed, logs=out / "logs")
        for optimizer in optimizers
    ]
    plot(results, out / "curves.png")
    if OPTIONS.json:
        cli.print_json({result.name: dataclasses.asdict(result) for result in results})
        return
    table = rich.table.Table("optimizer", "train loss", "test accuracy", "seconds")
    for result in results:
        table.add_row(result.name, f"{result.train_loss:.4f}", f"{result.test_accuracy:.1%}",
                      f"{result.seconds:.1f}")
    rich.print(table)
    print("HierarchicalLOpt made the steps of `rule`, which was designed: its shipped weights have "
          "learned nothing yet. A demonstration: constants were chosen on these digits, too.")
    print(f"plot: {out / 'curves.png'}\nlogs: tensorboard --logdir {out / 'logs'}")
