"""Records what the optimizer does with gradients that do not depend on it: `steps_format_1.npz`.

`KERAS_BACKEND=jax python tests/data/record_steps.py OUT.npz`, run at commit bc1cd4e, before the
rules were taken out of the network. Gradients are drawn, so that rounding does not feed back.
"""

from __future__ import annotations

import sys

import keras
import numpy as np
from keras import ops

from hrnn_opt import HierarchicalLOpt

STEPS = 200
KEPT = (1, 2, 10, 50, 200)
# Shapes as four kinds of networks have them; one side of a kernel is beyond the rotation's limit.
NETWORKS = {
    "mlp": [(150, 6), (6,), (6, 10), (10,)],
    "convnet": [(3, 3, 1, 4), (4,), (3, 3, 4, 8), (8,), (32, 10), (10,)],
    "gru": [(8, 18), (6, 18), (2, 18), (6, 5), (5,)],
    "transformer": [(20, 8), (8, 2, 4), (2, 4), (2, 4, 8), (8,), (8,), (8, 16), (16,), (16, 8)],
}


def gradients(shapes, step, seed=0):
    """What the tensors are given at a step: a slowly turning mean, and noise of many sizes."""
    rng = np.random.default_rng((seed, 7))
    sizes = [10.0 ** rng.uniform(-3, 1) for _ in shapes]
    means = [rng.normal(size=shape) for shape in shapes]
    rng = np.random.default_rng((seed, 11, step))
    return [
        (size * (np.cos(step / 40.0) * mean + rng.normal(size=shape))).astype("float32")
        for size, mean, shape in zip(sizes, means, shapes)]


def run(weights, shapes):
    """{step: flat parameters} after the steps that are kept."""
    rng = np.random.default_rng(5)
    variables = [keras.Variable(rng.normal(size=s).astype("float32") * 0.1) for s in shapes]
    optimizer = HierarchicalLOpt(weights, seed=0)
    found = {}
    for step in range(1, STEPS + 1):
        optimizer.apply([ops.convert_to_tensor(g) for g in gradients(shapes, step)], variables)
        if step in KEPT:
            found[step] = np.concatenate([
                ops.convert_to_numpy(value).reshape(-1) for value in optimizer.true_parameters()])
    return found


if __name__ == "__main__":
    arrays = {}
    for weights in ("default", "paper"):
        for name, shapes in NETWORKS.items():
            for step, values in run(weights, shapes).items():
                arrays[f"{weights}/{name}/{step}"] = values
    np.savez_compressed(sys.argv[1], **arrays)
