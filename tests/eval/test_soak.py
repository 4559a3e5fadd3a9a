"""Long training that is killed: it ends in the numbers of one that is not."""

import json

import keras
import numpy as np

from eval.__main__ import main
from eval.commands import soak
from tests.hrnn_opt.support import assert_equal, values


def arrays(folder) -> list[np.ndarray]:
    """All that the checkpoint holds, of the model and of its optimizer."""
    model = keras.saving.load_model(folder / "checkpoint.keras")
    return values([*model.variables, *model.optimizer.variables])


def test_killed_it_ends_in_the_same_numbers(tmp_path, capsys):
    assert main(["soak", "--steps=60", "--every=5", "--kills=1", "--json",
                 f"--out={tmp_path / 'killed'}"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["steps"] == 60 and report["workers"] == 2 and report["skipped"] == 0
    (tmp_path / "whole").mkdir()
    soak.work(tmp_path / "whole", 12, 5)
    assert_equal(arrays(tmp_path / "killed"), arrays(tmp_path / "whole"))


def test_growing_memory_and_bad_numbers_fail(tmp_path, monkeypatch, capsys):
    def lines(*rss, **changes):
        return [{"step": 10 * k, "loss": 1.0, "rss": r, "finite": True, "skipped": 0, "pid": 1,
                 **changes} for k, r in enumerate(rss, 1)]

    for found, code in (
            (lines(50, 100, 104, 109), 0), (lines(50, 100, 104, 120), 1),
            (lines(100, 100, 100, finite=False), 1), (lines(100, 100, 100, skipped=1), 1)):
        monkeypatch.setattr(soak, "soak", lambda *_, found=found: found)
        assert main(["soak", f"--out={tmp_path}", "--json"]) == code
        capsys.readouterr()
