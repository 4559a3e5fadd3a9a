"""Trains a few tensors on one JAX device and on eight, with every kind: `distributed.py`.

Prints one line of JSON: for each form, the largest deviation of what eight devices have from what
one has, relative to its largest change: of the parameters, and of the optimizer's saved variables.
"""

import json

import jax
import keras
import numpy as np
from keras import ops

from hrnn_opt import Layout
from tests.hrnn_opt.support import values
from tests.networks.forms import FEW, Run, gradients, optimizer

# Split over both axes, over one, and not at all; sizes that eight does not divide. Square: rotation
# turns axes without gradients by rounding alone.
SHAPES = ((8, 8), (6, 6), (5,), ())
LAYOUT = Layout(SHAPES)
NAMES = {"v0": ("batch", "model"), "v1": ("batch", None)}


def trained(form: str) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Tensors at the start and after three steps, and the optimizer's variables as files hold
    them."""
    run = Run(optimizer(form), SHAPES).take(gradients(3, shapes=SHAPES))
    store: dict[str, np.ndarray] = {}
    run.optimizer.save_own_variables(store)
    return run.start, values(run.tensors), [without_padding(value) for value in store.values()]


def without_padding(value: np.ndarray) -> np.ndarray:
    """The value, with 0 where it is a buffer's padding."""
    if value.shape[-2:] != (LAYOUT.blocks, LAYOUT.lanes):
        return np.asarray(value, "float64")
    return np.asarray(ops.convert_to_numpy(LAYOUT.flatten(LAYOUT.unflatten(value))), "float64")


def main() -> None:
    mesh = keras.distribution.DeviceMesh((2, 4), ("batch", "model"))
    layout_map = keras.distribution.LayoutMap(mesh)
    for name, axes in NAMES.items():
        layout_map[name] = axes
    distribution = keras.distribution.ModelParallel(
        layout_map=layout_map, batch_dim_name="batch")
    report = {}
    for form in FEW:
        start, one, state = trained(form)
        with distribution.scope():
            _, many, state_of_many = trained(form)
        report[form] = {
            "tensors": max(
                float(np.abs(a - b).max() / np.abs(b - s).max())
                for a, b, s in zip(many, one, start)),
            "state": max(
                float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))
                for a, b in zip(state_of_many, state) if b.size)}
    print(json.dumps(report))


if __name__ == "__main__":
    assert jax.device_count() == 8
    main()
