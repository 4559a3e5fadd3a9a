"""Trains a small model on eight JAX devices in several ways: `distributed.py FOLDER`.

Prints one line of JSON: for each way, the largest deviation of the trained parameters from those of
one device, relative to their largest change; and how much of the optimizer's state a device holds.
"""

import json
import pathlib
import sys
from typing import Any

import jax
import keras
import numpy as np

from hrnn_opt import HierarchicalLOpt
from tests.hrnn_opt.support import data, values, weights

STEPS = 4


# The network moves ahead of the parameters, or an average follows it.
WEIGHTS = {
    0.0: weights(lookahead=True),
    0.9: weights(
        step_size="normalized", averaging=0.9, update_scale_decay=0.9, bounded_updates=True,
        alignment_control=True, rotation_limit=4),
}


def model(averaging: float) -> keras.Model:
    """Paths that the layout maps below name, and sizes that eight does not divide."""
    keras.utils.set_random_seed(0)
    network = keras.Sequential([
        keras.Input((4,)),
        keras.layers.Dense(8, activation="tanh", name="wide"),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(3, name="narrow"),
    ])
    network.compile(
        optimizer=HierarchicalLOpt(
            WEIGHTS[averaging], seed=0, weight_decay=0.01,
            learning_rate=0.01 if averaging else 1.0,
            initial_learning_rate=None if averaging else (1e-3, 1e-2)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return network


def train(network: keras.Model, steps: int = STEPS) -> None:
    """Steps on the whole data; `fit` would leave the optimizer finalized."""
    x, y = data()
    for _ in range(steps):
        network.train_on_batch(x, y)


def layouts(shape: tuple[int, int], **paths) -> keras.distribution.ModelParallel:
    mesh = keras.distribution.DeviceMesh(shape, ("batch", "model"))
    layout_map = keras.distribution.LayoutMap(mesh)
    for path, axes in paths.items():
        layout_map[f".*{path}/kernel"] = axes
    # A rule for the model's variables that names, by accident, some of the optimizer's own.
    layout_map[".*rnn.*kernel"] = ("model", None)
    return keras.distribution.ModelParallel(layout_map=layout_map, batch_dim_name="batch")


def deviation(ours: list, expected: list, start: list) -> float:
    return float(max(
        np.abs(a - b).max() / np.abs(b - s).max() for a, b, s in zip(ours, expected, start)))


def compare(distribution: Any, averaging: float, one: dict,
            folder: str) -> dict[str, float]:
    """Train on many devices; where one's file is in the folder, load each other's files too."""
    files = pathlib.Path(folder)
    report = {}
    with distribution.scope():
        many = model(averaging)
        train(many)
        report["trained"] = deviation(values(many.weights), one["trained"], one["start"])
        hidden = many.optimizer._state_variables["hidden"].value
        (report["share"],) = {shard.data.size / hidden.size for shard in hidden.addressable_shards}
        if not folder:
            return report
        many.save(files / "many.keras")
        resumed = keras.saving.load_model(files / "one.keras")
        train(resumed)
        report["loaded on many"] = deviation(values(resumed.weights), one["further"], one["start"])
    resumed = keras.saving.load_model(files / "many.keras")
    train(resumed)
    report["loaded on one"] = deviation(values(resumed.weights), one["further"], one["start"])
    return report


def on_one_device(averaging: float, folder: str) -> dict[str, list]:
    network = model(averaging)
    result = {"start": values(network.weights)}
    train(network)
    result["trained"] = values(network.weights)
    network.save(pathlib.Path(folder, "one.keras"))
    train(network)
    return {**result, "further": values(network.weights)}


def main(folder: str) -> None:
    lookahead, averaging = (on_one_device(share, folder) for share in WEIGHTS)
    print(json.dumps({
        "data parallel": compare(keras.distribution.DataParallel(), 0.0, lookahead, ""),
        "model parallel": compare(layouts((2, 4), wide=(None, "model")), 0.0, lookahead, ""),
        "over both axes": compare(
            layouts((2, 4), wide=("model", "batch"), narrow=("batch", None)), 0.9, averaging,
            folder),
    }))


if __name__ == "__main__":
    assert jax.device_count() == 8
    main(*sys.argv[1:])
