"""The backends beside each other, each in a process of its own."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests.hrnn_opt import agreement

ROOT = pathlib.Path(__file__).parents[2]
BACKENDS = ("jax", "tensorflow", "torch")
BACKEND = keras.backend.backend()


def python(*arguments: str, backend: str = BACKEND) -> str:
    """The output of a Python program on a backend."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, text=True, capture_output=True,
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.jax_only
def test_the_backends_agree_over_200_steps_of_a_convnet(tmp_path):
    """Once for all, in the run on JAX."""
    np.savez(tmp_path / "inputs.npz", **agreement.inputs())
    results = {}
    for backend in BACKENDS:
        target = tmp_path / f"{backend}.npz"
        python(agreement.__file__, str(tmp_path / "inputs.npz"), str(target), backend=backend)
        with np.load(target) as file:
            results[backend] = dict(file)
    losses = results["jax"]["losses"]
    # It is real training: from chance to something learned.
    assert losses[:5].mean() > 2.2 and losses[-20:].mean() < 1.0
    for backend in BACKENDS[1:]:
        for name, expected in results["jax"].items():
            difference = np.linalg.norm(results[backend][name] - expected)
            assert difference <= 1e-4 * np.linalg.norm(expected), (backend, name)


def test_importing_the_package_imports_no_other_backend():
    # Keras imports some of what it finds, JAX among it, whatever the backend: that is not ours.
    program = """
import sys
import keras
keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).compile("adam", "mse")
before = set(sys.modules)
from hrnn_opt import HierarchicalLOpt
HierarchicalLOpt("untrained")
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""
    imported = set(python("-c", program).split()) - set(sys.stdlib_module_names)
    assert imported == {"hrnn_opt", "safetensors"}
