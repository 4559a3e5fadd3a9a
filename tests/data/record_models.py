"""Records models saved in the middle of training, and what they train on to: `saved/`.

`KERAS_BACKEND=B python -m tests.data.record_models`, once for each backend B; again when what the
shipped weights hold, or the state of their optimizers, is changed. Start values are drawn by NumPy,
so that all backends train the same model.
"""

from __future__ import annotations

import pathlib

import keras
import numpy as np
from keras import ops

from hrnn_opt import LearnedOpt

FOLDER = pathlib.Path(__file__).parent / "saved"
# Averaging, turned axes and what steers step sizes; lookahead and entries that are held. Both are
# saved in the middle of a step of two batches.
OPTIMIZERS = {
    "default": {"weights": "default", "weight_decay": 0.01, "gradient_accumulation_steps": 2},
    "lookahead": {"weights": "untrained", "lookahead": True, "use_ema": True,
                  "gradient_accumulation_steps": 2},
}
BATCHES, MORE = 7, 6


def train_on(model: keras.Model, batches: range) -> None:
    """Train on these batches, each of its own numbers."""
    for batch in batches:
        rng = np.random.default_rng(batch)
        x = rng.normal(size=(16, 6)).astype("float32")
        # An input that is always 0.
        x[:, 2] = 0
        model.train_on_batch(x, np.argmax(x[:, :3], axis=1))


def trained(name: str) -> keras.Model:
    """A model in the middle of its training."""
    model = keras.Sequential([
        keras.Input((6,)), keras.layers.Dense(5, activation="tanh"), keras.layers.Dense(3)])
    rng = np.random.default_rng(0)
    model.set_weights([
        rng.normal(0, 0.5, weight.shape).astype("float32") for weight in model.weights])
    model.compile(
        optimizer=LearnedOpt(seed=0, **OPTIMIZERS[name]),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    train_on(model, range(BATCHES))
    return model


def flat(variables: list[keras.Variable]) -> np.ndarray:
    """All values, one after the other."""
    return np.concatenate([
        np.asarray(ops.convert_to_numpy(v), "float32").reshape(-1) for v in variables])


if __name__ == "__main__":
    backend = keras.backend.backend()
    after = {}
    for name in OPTIMIZERS:
        model = trained(name)
        model.save(FOLDER / f"{backend}_{name}.keras")
        train_on(model, range(BATCHES, BATCHES + MORE))
        after[name] = flat(model.weights)
    np.savez_compressed(FOLDER / f"{backend}_after.npz", **after)
