"""The backends beside each other, each in a process of its own."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from hrnn_opt import HierarchicalRNN, HierarchicalRNNConfig, LearnedOpt, Rotation
from hrnn_opt.places import sweep
from hrnn_opt.places.layout import Layout
from tests.hrnn_opt import agreement
from tests.hrnn_opt.support import apply, gradients, variables

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


@pytest.mark.jax_only
def test_steps_outside_of_jit_compile_no_program_each(monkeypatch):
    """They would take a second each, and end with the memory maps of the process."""
    import jax

    # With a level that is moved some blocks at a time where that is compiled.
    monkeypatch.setattr(sweep, "_AT_ONCE", {"cpu": 4})
    config = HierarchicalRNNConfig(
        parameter_units=2, tensor_units=0, global_units=0, time_scales=2)
    opt, moved, compiled = LearnedOpt(Rotation(HierarchicalRNN(config))), variables(), []
    apply(opt, gradients(2), moved)

    def listen(event, seconds, **about):
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        apply(opt, gradients(2), moved)
        assert not compiled
        jax.jit(lambda x: x + 1.5)(1.0)
        assert compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.jax_only
@pytest.mark.parametrize("accelerator", [False, True])
def test_a_light_level_of_many_parameters_is_moved_in_turns_on_a_cpu_alone(
    accelerator, monkeypatch
):
    import jax

    monkeypatch.setattr(sweep, "_AT_ONCE", dict.fromkeys(("light", "accelerator"), 4))
    monkeypatch.setattr(sweep.backend, "on_accelerator", lambda: accelerator)
    layout, moved = Layout([(64,)], lanes=2), []

    def move(state, given, used_lanes, moves):
        moved.append(given[0].shape[0])
        return sweep.Moved({}, [], [given[0][None, :, 0]])

    sums = jax.jit(lambda x: sweep.sweep(
        move, layout, {}, (x,), rows=0, sums=(1,), light=True).sums)(np.ones((32, 2), "float32"))
    assert set(moved) == {32 if accelerator else 2}
    assert np.all(sums[0] == np.ones((1, 32)))
