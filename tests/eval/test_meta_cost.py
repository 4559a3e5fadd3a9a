"""The benchmark of meta-training."""

import keras
import pytest

from eval.benchmark import meta_training
from hrnn_opt import Direction

if keras.backend.backend() != "jax":
    pytest.skip("needs the JAX backend", allow_module_level=True)


def test_parameter_steps_are_those_that_are_taken(monkeypatch):
    """Of two members with three runs each, of 20 parameters; `full` takes eight times as many."""
    monkeypatch.setattr(meta_training, "TASKS", {"quadratic_20": (2, 3)})
    taken = []

    def second(function, repeats):
        taken.append(function())
        return 1.0

    monkeypatch.setattr(meta_training, "_seconds", second)
    found = meta_training.throughput("quadratic_20", Direction(), 2, 1, 1)
    once = 2 * 3 * 2 * 20
    assert found.pop("compile_seconds") > 0
    assert found == {"parameter_steps_per_second": once, "forward_only": once, "pes": once,
                     "full": 8 * once}
    tbptt, _, pes, full = taken
    for estimate in (tbptt, pes, full):
        assert estimate.losses.shape == (2, 3)
