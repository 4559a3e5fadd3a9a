import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from eval.runs.data import Data
from eval.runs.results import final_loss, loss_at
from eval.runs.run import Run, weights_checksum
from eval.runs.store import Store, write_json

RUNS = [Run("mlp_relu", "adam", 100, rate, seed=seed) for rate in (1e-3, 1e-2) for seed in (0, 1)]


@pytest.fixture
def store(tmp_path, digits):
    return Store(tmp_path / "store", digits)


def test_only_what_is_missing_is_run(store, fake_runs):
    first = store.results(RUNS[:3])
    again = store.results(RUNS)
    assert fake_runs.runs == RUNS
    assert again[:3] == first
    assert [result["seed"] for result in again] == [run.seed for run in RUNS]


def test_an_interrupted_program_goes_on_where_it_stopped(store, fake_runs, monkeypatch):
    execute = Run.execute

    def interrupted(run, data):
        if run == RUNS[2]:
            raise KeyboardInterrupt
        return execute(run, data)

    monkeypatch.setattr(Run, "execute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.results(RUNS)
    monkeypatch.setattr(Run, "execute", execute)
    store.results(RUNS)
    assert fake_runs.runs == RUNS


@pytest.mark.parametrize("damage", [
    lambda text: "", lambda text: text[: len(text) // 2], lambda text: "[]",
    lambda text: text.replace('"seed": 0', '"seed": 7'),
    lambda text: text.replace("final_training_loss", "other"),
])
def test_a_damaged_file_is_run_again(store, fake_runs, damage):
    (whole,) = store.results(RUNS[:1])
    path = store.path(RUNS[0])
    path.write_text(damage(path.read_text()))
    assert store.get(RUNS[0]) is None
    assert store.results(RUNS[:1]) == [whole]
    assert len(fake_runs.runs) == 2


def test_every_setting_has_its_own_file(store):
    run = RUNS[0]
    others = [
        dataclasses.replace(run, **{name: value}) for name, value in {
            "network": "mlp_sigmoid", "optimizer": "sgd", "steps": 101, "learning_rate": 1.001e-3,
            "schedule": "cosine", "batch_size": 65, "seed": 9}.items()
    ]
    assert len({store.path(r) for r in [run, *others]}) == len(others) + 1


def test_other_data_have_other_files(store, digits):
    shifted = Data(digits.x_train, np.roll(digits.y_train, 1), digits.x_test, digits.y_test)
    assert Store(store.folder, shifted).path(RUNS[0]) != store.path(RUNS[0])


def test_weights_go_by_content_not_by_folder(store, tmp_path):
    from hrnn_opt import HierarchicalRNN, Pretrained

    paths = []
    for folder, seed in (("a", 0), ("b", 1), ("c", 0)):
        path = tmp_path / folder / "weights.safetensors"
        path.parent.mkdir()
        Pretrained.from_network(HierarchicalRNN(seed=seed)).save(path)
        paths.append(store.path(Run("mlp_relu", "hrnn", 100, weights=str(path))))
    assert paths[0] != paths[1]
    assert paths[0] == paths[2]
    assert "weights.safetensors" in paths[0].name


def test_shipped_weights_go_by_the_checksum_of_their_card():
    for name in ("celo_small", "default", "learned", "paper", "rule"):
        card = (Path(__file__).parents[2] / f"hrnn_opt/pretrained/{name}.md").read_text()
        assert f"| SHA-256 | {weights_checksum(name)}" in card
    assert weights_checksum(None) == weights_checksum("default")


def test_a_write_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "result.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_killed_program_leaves_whole_files_only(tmp_path):
    program = (
        "import sys, pathlib; from eval.runs.store import write_json\n"
        "i = 0\n"
        "while True:\n"
        "    write_json(pathlib.Path(sys.argv[1]) / f'{i % 5}.json', list(range(20000)))\n"
        "    i += 1\n")
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)],
                               cwd=Path(__file__).parents[2])
    deadline = time.time() + 60
    while not (tmp_path / "4.json").exists() and time.time() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    files = list(tmp_path.glob("[0-9].json"))
    assert len(files) == 5
    assert all(json.loads(file.read_text()) == list(range(20000)) for file in files)


def test_losses_of_results():
    whole = {"curve": [[100, 0.5], [200, 0.4]], "diverged": False, "final_training_loss": 0.4}
    diverged = {"curve": [[100, 9.0]], "diverged": True, "final_training_loss": None}
    assert (final_loss(whole), final_loss(diverged)) == (0.4, float("inf"))
    assert (loss_at(whole, 100), loss_at(diverged, 100)) == (0.5, 9.0)
    assert loss_at(diverged, 200) == float("inf")
    with pytest.raises(ValueError, match="no point at step 150"):
        loss_at(whole, 150)
