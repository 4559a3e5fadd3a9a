"""Trains a small convnet on the backend in `KERAS_BACKEND`: `agreement.py INPUTS.npz OUTPUTS.npz`.

Start values and batches come from a file, so that every backend sees the same numbers. Smooth
activations and mean pooling: where a maximum decides, a rounding error picks another path, and
after some steps the backends train two different networks.
"""

import sys

import keras
import numpy as np

from hrnn_opt import HierarchicalLOpt

STEPS = 200
BATCH = 16


def convnet() -> keras.Model:
    """Two convolutions and an affine layer: 838 parameters."""
    return keras.Sequential([
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(6, 3, padding="same", activation="tanh"),
        keras.layers.AveragePooling2D(2),
        keras.layers.Conv2D(8, 3, padding="same", activation="tanh"),
        keras.layers.AveragePooling2D(2),
        keras.layers.Flatten(),
        keras.layers.Dense(10),
    ])


def inputs() -> dict[str, np.ndarray]:
    """Start values and batches of real digits."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(len(x)) for _ in range(2)])[: STEPS * BATCH]
    starts = [
        rng.normal(0, 1 / np.sqrt(max(1, np.prod(v.shape[:-1]))), v.shape) * (len(v.shape) > 1)
        for v in convnet().trainable_variables
    ]
    return {
        "x": (x.reshape(-1, 8, 8, 1)[order] / 16).astype("float32"),
        "y": y[order],
        **{f"start/{i}": start.astype("float32") for i, start in enumerate(starts)},
    }


def main(source: str, target: str) -> None:
    """Train on `source`'s batches and write the parameters to `target`."""
    given = np.load(source)
    network = convnet()
    for i, variable in enumerate(network.trainable_variables):
        variable.assign(given[f"start/{i}"])
    network.compile(
        optimizer=HierarchicalLOpt(
            "untrained", seed=0, lookahead=True, initial_learning_rate=1e-2),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    losses = [
        float(network.train_on_batch(
            given["x"][t * BATCH : (t + 1) * BATCH], given["y"][t * BATCH : (t + 1) * BATCH]))
        for t in range(STEPS)
    ]
    network.optimizer.finalize_variable_values(network.trainable_variables)
    np.savez(target, losses=losses, **{
        str(i): keras.ops.convert_to_numpy(v) for i, v in enumerate(network.trainable_variables)})


if __name__ == "__main__":
    main(*sys.argv[1:])
