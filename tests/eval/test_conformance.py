"""The command, on the recordings of the released program and on damaged ones; on every backend."""

import json
import pathlib
import zipfile

import numpy as np
import pytest

from eval.__main__ import main
from hrnn_opt.networks.hrnn import network

DATA = pathlib.Path(__file__).parents[1] / "data"
FILES = sorted(DATA.glob("trajectory_*.npz"))
QUANTITIES = {"parameters", "attended", "log_learning_rate", "states"}


def arrays(name: str = "trajectory_multi_lookahead", steps: int = 3) -> dict[str, np.ndarray]:
    """The first steps of a recording, on which the last state does not count."""
    with np.load(DATA / f"{name}.npz") as file:
        content = {key: file[key] for key in file.files}
    content["T"] = np.array(steps)
    return content


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main(["conformance", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_released_programs_trajectories_are_reproduced(path, capsys):
    status, out, _ = run(capsys, "--json", path)
    report = json.loads(out)
    assert status == 0 and report["passed"] is True
    worst = report["files"][path.name]
    assert set(report["files"]) == {path.name} and set(worst) == QUANTITIES
    assert all(0 < value < 5e-5 for value in worst.values())


@pytest.mark.jax_only
@pytest.mark.parametrize("key, quantity, change", [
    ("param/1/0", "parameters", 1e-3), ("attended/2/1", "attended", 1e-3),
    ("log_lr/2/0", "log_learning_rate", 1e-3), ("tensor_state/0/1", "states", 1e-4),
    ("global_state/2", "states", 1e-4), ("grad/1/0", "parameters", 1e-1),
    ("grad/1/0", "parameters", np.nan), ("meta/LOL/update_weights", "parameters", 1e-3)])
def test_a_recording_that_says_something_else_fails(key, quantity, change, tmp_path, capsys):
    content = arrays()
    (full,) = [name for name in content if name == key or name.endswith(key)][:1]
    changed = content[full].copy()
    changed.reshape(-1)[0] += change
    np.savez(tmp_path / "changed.npz", **{**content, full: changed})
    status, out, _ = run(capsys, "--json", tmp_path / "changed.npz")
    report = json.loads(out)
    assert status == 1 and report["passed"] is False
    assert report["files"]["changed.npz"][quantity] > 2e-5
    status, out, _ = run(capsys, tmp_path / "changed.npz")
    assert status == 1 and out.startswith("FAIL  changed.npz  parameters ")


def test_an_optimizer_that_does_something_else_fails(monkeypatch, capsys):
    monkeypatch.setattr(network, "_MEAN_SQUARE_EPSILON", 1e-10)
    status, out, _ = run(capsys, DATA / "trajectory_tinygrad.npz")
    assert status == 1 and out.startswith("FAIL")


def without(key):
    def change(content):
        del content[next(name for name in content if name.endswith(key))]
    return change


def with_array(key, array):
    def change(content):
        content[next(name for name in content if name.endswith(key))] = np.asarray(array)
    return change


@pytest.mark.parametrize("change, message", [
    (without("grad/1/0"), "the key 'grad/1/0' is missing"),
    (without("update_weights"), "'update_weights'"),
    (without("init_log_lr"), "the key 'init_log_lr' is missing"),
    (with_array("T", 0), "'T' must be a count of at least 1, got 0"),
    (with_array("T", [1, 2]), "'T' must have shape ()"),
    (with_array("n_tensors", 1.5), "'n_tensors' must be a count"),
    (with_array("grad/1/0", np.zeros(3)), "'grad/1/0' must have shape"),
    (with_array("param/0/0", "text"), "'param/0/0' must hold numbers"),
    (with_array("update_weights", np.zeros(3)), "'update_weights' must have shape (10,)"),
], ids=range(9))
def test_a_file_that_is_not_of_the_format_is_refused(change, message, tmp_path, capsys):
    content = arrays(steps=2)
    change(content)
    np.savez(tmp_path / "bad.npz", **content)
    status, out, error = run(capsys, "--json", tmp_path / "bad.npz")
    report = json.loads(out)
    assert status == 2 and report["passed"] is False
    assert message in report["files"]["bad.npz"]["error"]
    assert "bad.npz: " in error and message in error
    assert "Traceback" not in error


@pytest.mark.parametrize("damage", ["none", "empty", "text", "cut", "flipped", "npy", "no numbers"])
def test_a_file_that_cannot_be_read_is_refused(damage, tmp_path, capsys):
    path = tmp_path / "bad.npz"
    whole = FILES[0].read_bytes()
    if damage == "flipped":
        with zipfile.ZipFile(FILES[0]) as archive:
            entry = archive.infolist()[3]
        at = entry.header_offset + 60 + entry.compress_size // 2
        whole = whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]
    content = {"empty": b"", "text": b"hello", "cut": whole[: len(whole) // 2], "flipped": whole}
    if damage in content:
        path.write_bytes(content[damage])
    if damage == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    if damage == "no numbers":
        np.savez(path, a=np.array([{}], dtype=object))
    status, out, error = run(capsys, path)
    assert status == 2 and not out
    assert "bad.npz: " in error and "Traceback" not in error


def bare(folder: pathlib.Path) -> None:
    """Writes the beginning of a recording that holds no meta-parameters."""
    np.savez(
        folder / "bare.npz", n_tensors=1, T=1,
        **{"param0/0": np.zeros(3), "adam_param/0/0": np.zeros(3)})


def test_files_after_one_that_cannot_be_read_are_replayed(tmp_path, capsys):
    good = DATA / "trajectory_tinygrad.npz"
    changed = arrays()
    changed["param/1/0"] = changed["param/1/0"] + 1e-2
    np.savez(tmp_path / "changed.npz", **changed)
    bare(tmp_path)
    paths = [tmp_path / "bare.npz", tmp_path / "changed.npz", good]
    status, out, error = run(capsys, *paths)
    assert status == 2
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["FAIL", "changed.npz"], ["pass", good.name]]
    assert error.startswith(f"{paths[0]}: ") and error.count("\n") == 1
    assert run(capsys, paths[2], paths[1])[0] == 1


@pytest.mark.parametrize("weights, message", [
    ("missing.npz", "no such file"), (".", "is no file"), ("good.npz", "the key")])
def test_weights_that_do_not_fit_are_named(weights, message, tmp_path, capsys):
    np.savez(tmp_path / "good.npz", **arrays(steps=1))
    bare(tmp_path)
    status, out, error = run(
        capsys, "--weights", tmp_path / weights, tmp_path / "bare.npz")
    assert status == 2 and not out
    assert f"--weights {tmp_path / weights}: " in error and message in error


def test_no_file_is_an_error(capsys):
    status, out, error = run(capsys)
    assert status == 2 and not out and "name at least one FILE" in error


def test_files_of_the_same_name_go_by_their_paths(tmp_path, capsys):
    paths = [tmp_path / name / "t.npz" for name in "ab"]
    for path in paths:
        path.parent.mkdir()
        np.savez(path, **arrays(steps=1))
    _, out, _ = run(capsys, "--json", *paths)
    assert set(json.loads(out)["files"]) == set(map(str, paths))


@pytest.mark.jax_only
def test_problems_are_replayed_too(capsys, tmp_path):
    status, out, _ = run(capsys, "--json", DATA / "problems.npz", FILES[0])
    report = json.loads(out)
    assert status == 0 and report["passed"]
    worst = report["files"]["problems.npz"]
    assert worst["value"] < 1e-4 and worst["gradient"] < 1e-4 and len(worst["problems"]) > 5
    with np.load(DATA / "problems.npz") as file:
        content = dict(file)
    key = next(key for key in content if key.endswith("grad/0"))
    content[key] = content[key] + 1
    np.savez(tmp_path / "changed.npz", **content)
    assert run(capsys, tmp_path / "changed.npz")[0] == 1
