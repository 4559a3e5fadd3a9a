"""Evaluation of a network with batch normalization, as it is and with statistics taken anew: page
40.

`python -m lab.programs.batch_norm MNIST`: some ten minutes on a core; writes
`docs/batch_norm.png` and prints the medians of three seeds.
"""

import sys

import keras
import numpy as np

from eval.figures import pictures
from eval.runs import networks
from eval.runs.data import load
from hrnn_opt import HierarchicalLOpt, refresh_statistics

POINTS = (20, 50, 100, 200, 500, 1000, 2000)
SEEDS = (0, 1, 2)
EXAMPLES = 2000
MAKERS = {"HierarchicalLOpt": HierarchicalLOpt, "Adam": keras.optimizers.Adam}
COLOURS = {"HierarchicalLOpt": pictures.VERMILION, "Adam": pictures.BLUE}


def run(make, data, seed):
    """(2, points) test errors: with the moving statistics, and with those taken anew."""
    model = networks.build("conv_bn_relu", data.x_train.shape[1:], 10, seed)
    moving = []
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            # Keras's own, which users have.
            layer.momentum = 0.99
            moving += [layer.moving_mean, layer.moving_variance]
    model.compile(optimizer=make(), metrics=["accuracy"],
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng, errors = np.random.default_rng(seed), ([], [])

    def note(kind):
        errors[kind].append(
            1 - model.evaluate(data.x_test, data.y_test, batch_size=1000, verbose=0)[1])

    for start, end in zip((0, *POINTS), POINTS):
        rows = rng.integers(0, len(data.y_train), 64 * (end - start))
        model.fit(data.x_train[rows], data.y_train[rows], batch_size=64, shuffle=False, verbose=0)
        note(0)
        before = [np.array(keras.ops.convert_to_numpy(v)) for v in moving]
        refresh_statistics(model, data.x_train[:EXAMPLES], 64)
        note(1)
        for variable, value in zip(moving, before):
            variable.assign(value)
    return errors


def main(folder: str) -> None:
    """Measure, print and draw."""
    data = load(folder)
    figure, axes = pictures.panels(1, 1, width=6, height=3.4)
    axis = axes[0, 0]
    for name, make in MAKERS.items():
        medians = np.median([run(make, data, seed) for seed in SEEDS], axis=0)
        for errors, style, kind in zip(medians, ("--", "-"), ("as it is", "taken anew")):
            print(name, kind, dict(zip(POINTS, (1 - errors).round(4).tolist())), flush=True)
            axis.plot(POINTS, errors, style, color=COLOURS[name], label=f"{name}, {kind}")
    axis.set(xscale="log", yscale="log", xlabel="training steps", ylabel="test error")
    axis.legend(frameon=False, fontsize=8)
    pictures.save(figure, "docs/batch_norm.png")


if __name__ == "__main__":
    main(sys.argv[1])
