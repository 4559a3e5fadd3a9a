import pathlib

import numpy as np
import pytest

from hrnn_opt import HierarchicalRNNConfig, Pretrained
from hrnn_opt.files.foreign import from_released, read_released
from hrnn_opt.networks.hrnn.released import NAMES
from tests.hrnn_opt.support import assert_equal

DATA = pathlib.Path(__file__).parents[1] / "data"


@pytest.fixture
def released() -> dict[str, np.ndarray]:
    with np.load(DATA / "trajectory_multi_lookahead.npz") as file:
        return {k.removeprefix("meta/"): file[k] for k in file.files if k.startswith("meta/")}


def test_every_number_finds_its_place(released):
    weights = from_released(released, lookahead=True)
    assert weights.config.core == HierarchicalRNNConfig(lookahead=True)
    assert set(weights.arrays) == set(NAMES)
    # Every variable of theirs is used once: the numbers are the same, as a set.
    ours = np.sort(np.concatenate([a.reshape(-1) for a in weights.arrays.values()]))
    theirs = np.sort(np.concatenate([a.reshape(-1) for a in released.values()]))
    np.testing.assert_array_equal(ours, theirs)


def test_without_lookahead_its_weights_are_left_out(released):
    weights = from_released(released, lookahead=False)
    assert weights.config.core == HierarchicalRNNConfig()
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


def write_checkpoint(prefix: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    tf = pytest.importorskip("tensorflow")
    names = list(arrays)
    tf.raw_ops.SaveV2(
        prefix=str(prefix), tensor_names=names, shape_and_slices=[""] * len(names),
        tensors=[tf.constant(arrays[name]) for name in names])


@pytest.mark.jax_only
def test_a_checkpoint_of_the_released_program_takes_the_same_trajectory(tmp_path, released):
    from eval.__main__ import main
    from eval.conformance import trajectories

    others = {
        "LOL/update_weights/RMSProp": np.ones((10, 1), "float32"), "global_step": np.int64(7)}
    write_checkpoint(tmp_path / "model.ckpt-7", {**released, **others})
    weights = read_released(tmp_path / "model.ckpt-7")
    expected = from_released(released, lookahead=True)
    assert weights.config == expected.config
    assert_equal(list(weights.arrays.values()), list(expected.arrays.values()))
    # Through our own file the recording is replayed to the same numbers; and as plain arrays.
    for source, target in (("model.ckpt-7", "w.safetensors"), ("w.safetensors", "w.npz")):
        assert main(["convert", str(tmp_path / source), str(tmp_path / target)]) == 0
    loaded = Pretrained.load(tmp_path / "w.safetensors")
    with np.load(tmp_path / "w.npz") as plain:
        assert {name: plain[name].tolist() for name in plain} == {
            name: array.tolist() for name, array in loaded.arrays.items()}
    with np.load(DATA / "trajectory_multi_lookahead.npz") as file:
        recording = {k: file[k] for k in file.files if not k.startswith("meta/")}
    theirs = {f"meta/LOL/{NAMES[name]}": array for name, array in loaded.arrays.items()}
    deviations = trajectories.replay_trajectory({**recording, **theirs})
    assert deviations["parameters"] < trajectories.TOLERANCES["parameters"]


@pytest.mark.jax_only
def test_a_damaged_checkpoint_is_one_clear_error(tmp_path, released):
    prefix = tmp_path / "model.ckpt"
    with pytest.raises(ValueError, match=r"no model\.ckpt\.index"):
        read_released(prefix)
    write_checkpoint(prefix, {**released, "LOL/update_weights": np.arange(10)})
    with pytest.raises(ValueError, match="'update_weights' must hold floats, got int64"):
        read_released(prefix)
    write_checkpoint(prefix, {"LOL/update_weights": np.ones(10)})
    with pytest.raises(ValueError, match=r"'model\.ckpt': `arrays` must have one variable named"):
        read_released(prefix)
    write_checkpoint(prefix, released)
    index = tmp_path / "model.ckpt.index"
    (data,) = tmp_path.glob("model.ckpt.data*")
    for path in (index, data):
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[100] ^= 4
        for damaged in (b"", content[: len(content) // 2], content[:-1], bytes(flipped)):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=r"^`path` 'model\.ckpt': "):
                read_released(prefix)
        path.write_bytes(content)
    read_released(prefix)
