import pathlib

import numpy as np
import pytest

from hrnn_opt import HierarchicalRNNConfig
from hrnn_opt.released import NAMES, from_released

DATA = pathlib.Path(__file__).parents[1] / "data"


@pytest.fixture
def released() -> dict[str, np.ndarray]:
    with np.load(DATA / "trajectory_multi_lookahead.npz") as file:
        return {k.removeprefix("meta/"): file[k] for k in file.files if k.startswith("meta/")}


def test_every_number_finds_its_place(released):
    weights = from_released(released, lookahead=True)
    assert weights.config == HierarchicalRNNConfig(lookahead=True)
    assert set(weights.arrays) == set(NAMES)
    # Every variable of theirs is used once: the numbers are the same, as a set.
    ours = np.sort(np.concatenate([a.reshape(-1) for a in weights.arrays.values()]))
    theirs = np.sort(np.concatenate([a.reshape(-1) for a in released.values()]))
    np.testing.assert_array_equal(ours, theirs)


def test_without_lookahead_its_weights_are_left_out(released):
    weights = from_released(released, lookahead=False)
    assert weights.config == HierarchicalRNNConfig()
    assert "attention_weights" not in weights.arrays


def test_the_scope_does_not_matter(released):
    moved = {name.replace("LOL/", "a/b/"): array for name, array in released.items()}
    expected = from_released(released, lookahead=True).arrays
    for name, array in from_released(moved, lookahead=True).arrays.items():
        np.testing.assert_array_equal(array, expected[name])


def test_what_does_not_fit_is_refused(released):
    name = next(key for key in released if key.endswith("update_weights"))
    with pytest.raises(ValueError, match=r"'update_weights'.*got none"):
        from_released({k: v for k, v in released.items() if k != name}, lookahead=True)
    with pytest.raises(ValueError, match=r"'update_weights' must have shape \(10,\)"):
        from_released({**released, name: np.zeros(9)}, lookahead=True)
    with pytest.raises(ValueError, match="must have one variable named 'update_weights'"):
        from_released({**released, "XYZ/update_weights": np.zeros(10)}, lookahead=True)
    with pytest.raises(ValueError, match="finite"):
        from_released({**released, name: np.full(10, np.nan)}, lookahead=True)
