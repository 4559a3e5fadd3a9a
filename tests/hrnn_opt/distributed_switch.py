"""Trains a small model with a greedy switch on one and on four JAX devices.

Prints one line of JSON: the largest deviation of the parameters, relative to their largest change;
whether the same candidates were chosen; and the share of a momentum buffer and of a kept update
that a device holds.
"""

import json

import jax
import keras
import numpy as np

from hrnn_opt import GreedySwitch
from tests.hrnn_opt.support import data, values


def trained() -> tuple[list, list, keras.Model]:
    """The weights before and after some steps, and the model."""
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "tanh", name="wide"),
                                keras.layers.Dense(3, name="narrow")])
    network.compile(
        GreedySwitch([keras.optimizers.Adam(0.01), keras.optimizers.SGD(0.1, momentum=0.9)]),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    start = values(network.weights)
    for _ in range(6):
        network.train_on_batch(*data())
    return start, values(network.weights), network


def main() -> None:
    start, one, alone = trained()
    mesh = keras.distribution.DeviceMesh((2, 2), ("batch", "model"))
    layout_map = keras.distribution.LayoutMap(mesh)
    layout_map[".*wide/kernel"] = (None, "model")
    with keras.distribution.ModelParallel(
            layout_map=layout_map, batch_dim_name="batch").scope():
        _, many, network = trained()
        switch = network.optimizer
        buffers = switch.candidates[1].momentums[0], switch._updates[0][0]
        shares = [{shard.data.size / buffer.value.size
                   for shard in buffer.value.addressable_shards} for buffer in buffers]
    print(json.dumps({
        "deviation": float(max(np.abs(a - b).max() / np.abs(b - s).max()
                               for a, b, s in zip(many, one, start))),
        "same": switch.uses().tolist() == alone.optimizer.uses().tolist(),
        "shares": [max(share) for share in shares]}))


if __name__ == "__main__":
    assert jax.device_count() == 4
    main()
