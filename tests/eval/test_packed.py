import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest
from hypothesis import strategies

from eval.__main__ import main
from eval.runs import packed
from eval.runs import run as run_module
from eval.runs.run import Run
from eval.runs.store import Store

ROOT = Path(__file__).parents[2]
RUNS = [Run(network, "adam", 100, rate) for network in ("mlp_relu", "mlp_sigmoid")
        for rate in (1e-3, 1e-2)]


@pytest.fixture
def store(tmp_path, digits, fake_runs):
    store = Store(tmp_path / "store", digits)
    store.results(RUNS)
    return store


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_packed_results_are_found_under_the_same_keys(store, digits, fake_runs):
    before = [store.get(run) for run in RUNS]
    keys = {store.path(run).stem for run in RUNS}
    assert packed.pack(store.folder) == {"mlp_relu.json": 2, "mlp_sigmoid.json": 2}
    assert names(store.folder) == ["mlp_relu.json", "mlp_sigmoid.json"]
    # The store that was open, and one that is opened now.
    assert [store.get(run) for run in RUNS] == before
    assert Store(store.folder, digits).results(RUNS) == before
    assert fake_runs.runs == RUNS
    found = [json.loads((store.folder / name).read_text()) for name in names(store.folder)]
    assert {key for entries in found for key in entries} == keys
    # A line a run, so that a change of one shows as such.
    assert (store.folder / "mlp_relu.json").read_text().count("\n") == 4


def test_a_run_of_other_settings_is_not_found(store):
    packed.pack(store.folder)
    assert store.get(Run("mlp_relu", "adam", 100, 1e-2, seed=1)) is None


def test_packing_twice_is_the_same(store):
    packed.pack(store.folder)
    once = contents(store.folder)
    assert packed.pack(store.folder) == {}
    assert contents(store.folder) == once


def test_new_results_join_those_that_are_packed(store, fake_runs):
    packed.pack(store.folder)
    new = Run("mlp_relu", "adam", 100, 3e-3)
    (result,) = store.results([new])
    assert store.path(new).exists()
    assert packed.pack(store.folder) == {"mlp_relu.json": 3}
    assert store.get(new) == result
    assert names(store.folder) == ["mlp_relu.json", "mlp_sigmoid.json"]
    assert len(fake_runs.runs) == len(RUNS) + 1


def test_other_json_and_damaged_files_stay(store):
    write = {"figure_4a.json": "{}", "table.json": "[]", "config-of-mine.json": "{}"}
    for name, text in write.items():
        (store.folder / name).write_text(text)
    damaged = [store.path(run) for run in RUNS[:3]]
    for path, text in zip(damaged, ("", '{"final_training_loss": NaN}', "[1]")):
        path.write_text(text)
    assert packed.pack(store.folder) == {"mlp_sigmoid.json": 1}
    assert names(store.folder) == sorted(
        [*write, *(path.name for path in damaged), "mlp_sigmoid.json"])
    assert [store.get(run) is None for run in RUNS] == [True, True, True, False]


def test_a_single_file_that_is_damaged_does_not_hide_the_packed_result(store):
    whole = store.get(RUNS[0])
    path = store.path(RUNS[0])
    packed.pack(store.folder)
    path.write_text("{")
    assert store.get(RUNS[0]) == whole
    packed.pack(store.folder)
    assert store.get(RUNS[0]) == whole and path.exists()


def test_a_damaged_line_loses_its_run_alone(store):
    whole = [store.get(run) for run in RUNS]
    packed.pack(store.folder)
    path = packed.path_of(store.path(RUNS[0]))
    lines = path.read_text().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if store.path(RUNS[0]).stem in line)
    lines[at] = lines[at][: len(lines[at]) // 2] + "\n"
    path.write_text("".join(lines))
    assert [store.get(run) for run in RUNS] == [None, *whole[1:]]
    assert store.results(RUNS) == whole
    # Both sides of a merge that git could not make.
    new = store.path(RUNS[0])
    packed.pack(store.folder)
    text = path.read_text()
    path.write_text(text.replace("{\n", "{\n<<<<<<< ours\n", 1).replace("\n}", "\n>>>>>>>\n}"))
    assert [store.get(run) for run in RUNS] == whole
    assert not new.exists()


def test_a_packed_file_in_another_form_is_read(store):
    whole = [store.get(run) for run in RUNS]
    packed.pack(store.folder)
    for path in store.folder.iterdir():
        path.write_text(json.dumps(json.loads(path.read_text()), indent=2))
    assert [store.get(run) for run in RUNS] == whole


def test_a_packed_result_of_another_run_is_none(store):
    packed.pack(store.folder)
    path = packed.path_of(store.path(RUNS[0]))
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 7'))
    assert [store.get(run) is None for run in RUNS] == [True, True, False, False]


@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(data=strategies.data())
def test_whatever_is_in_a_packed_file_results_are_whole_or_none(store, data):
    packed.pack(store.folder)
    path = packed.path_of(store.path(RUNS[0]))
    content = path.read_bytes()
    at = data.draw(strategies.integers(0, len(content) - 1))
    with_ = data.draw(strategies.binary(max_size=8))
    path.write_bytes(content[:at] + with_ + content[at + data.draw(strategies.integers(0, 40)):])
    try:
        found = store.get(RUNS[0])
        # A digit of a number may be another; what the run is may not.
        expected = RUNS[0].configuration(store.data)
        assert found is None or (
            found.keys() >= Run.KEYS and {key: found[key] for key in expected} == expected)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("call", ["write_atomic", "unlink"])
def test_a_kill_while_packing_loses_nothing(store, call):
    whole = [store.get(run) for run in RUNS]
    # Killed after the first packed file is written, or before the second single file is deleted.
    program = (
        "import os, pathlib, signal, sys\n"
        "from eval.runs import packed\n"
        "of = packed if sys.argv[2] == 'write_atomic' else pathlib.Path\n"
        "whole, calls = getattr(of, sys.argv[2]), []\n"
        "def killed(*arguments):\n"
        "    if sys.argv[2] == 'write_atomic':\n"
        "        whole(*arguments)\n"
        "    elif not calls:\n"
        "        calls.append(whole(*arguments))\n"
        "        return\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "setattr(of, sys.argv[2], killed)\n"
        "packed.pack(pathlib.Path(sys.argv[1]))\n")
    process = subprocess.run([sys.executable, "-c", program, str(store.folder), call], cwd=ROOT)
    assert process.returncode == -signal.SIGKILL
    singles = sum(store.path(run).exists() for run in RUNS)
    assert singles == (4 if call == "write_atomic" else 3) and packed.path_of(
        store.path(RUNS[0])).exists()
    assert [store.get(run) for run in RUNS] == whole
    packed.pack(store.folder)
    assert names(store.folder) == ["mlp_relu.json", "mlp_sigmoid.json"]
    assert [store.get(run) for run in RUNS] == whole


def test_programs_that_pack_at_once_lose_nothing(store, fake_runs):
    more = [Run("mlp_relu", "adam", 100, 1e-3, seed=seed) for seed in range(1, 120)]
    whole = store.results(more)
    program = "import sys, pathlib; from eval.runs.packed import pack; sys.stdin.read(); " \
              "[pack(pathlib.Path(sys.argv[1])) for _ in range(12)]"
    programs = [subprocess.Popen([sys.executable, "-c", program, str(store.folder)], cwd=ROOT,
                                 stdin=subprocess.PIPE) for _ in range(2)]
    for process in programs:
        process.stdin.close()
    while any(process.poll() is None for process in programs):
        store.put(more[0], whole[0])
    assert [process.returncode for process in programs] == [0, 0]
    assert [store.get(run) for run in more] == whole


def test_the_command_packs_a_store(store, capsys, tmp_path):
    assert main(["pack", f"--store={store.folder}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"mlp_relu.json": 2, "mlp_sigmoid.json": 2}
    assert main(["pack", f"--store={store.folder}"]) == 0
    assert "no single results" in capsys.readouterr().out
    assert main(["pack", f"--store={tmp_path / 'none'}"]) == 2
    assert "no folder" in capsys.readouterr().err


def test_the_results_of_this_repository_are_found_by_their_runs(monkeypatch):
    folder = ROOT / "eval/results"
    # `default` was other weights once: its results stay, and are those of the file kept in tests.
    then = run_module.weights_checksum(str(ROOT / "tests/data/default_format_1.safetensors"))
    assert not list(folder.glob("*-*.json")), "python -m eval pack --store eval/results"
    for path in folder.glob("*.json"):
        for name, result in packed.read(path).items():
            run = Run(**{key: result[key] for key in (
                "network", "optimizer", "steps", "learning_rate", "schedule", "batch_size", "seed",
                "weights", "initial_learning_rate")}, state_dtype=result.get("state_dtype"))
            store = Store(folder, SimpleNamespace(fingerprint=result["data"]))
            checksum = result["weights_sha256"]
            assert checksum in (
                run_module.learned_checksum(run), then if run.weights == "default" else None)
            monkeypatch.setattr(run_module, "learned_checksum", lambda _, of=checksum: of)
            assert store.path(run).stem == name
            assert store.get(run) == result
            monkeypatch.undo()
