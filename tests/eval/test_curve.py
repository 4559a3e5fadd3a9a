"""The picture of a meta-training run."""

import json

import matplotlib.image
import numpy as np
import pytest

from eval.__main__ import main
from eval.commands import curve

RECORDS = [
    {"step": step, "losses": {"a": -step, "b": -step - 2.0}, "seconds": 30.0 * step} |
    ({"validation": {"score": 1.0 - step % 4, "curve": 2.0 - step % 4, "end": -(step % 4) * 1.0}}
     if step % 2 else {})
    for step in range(1, 6)]


def logged(folder, records):
    folder.mkdir()
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return str(folder)


def lines(axis):
    return [np.transpose(line.get_data()).tolist() for line in axis.lines]


def test_both_curves_over_steps_and_minutes(tmp_path, capsys, figures):
    path = tmp_path / "pictures" / "curve.png"
    assert main(["curve", logged(tmp_path / "run", RECORDS), f"--out={path}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "meta_steps": 5, "minutes": 7.5, "best_validation": -2.0, "best_validation_step": 3}
    assert matplotlib.image.imread(path).std() > 0.05
    (figure,) = figures
    objective, objective_minutes, validation, validation_minutes = figure.axes
    losses = [-2.0, -3.0, -4.0, -5.0, -6.0]
    assert lines(objective)[0] == [[step, loss] for step, loss in zip(range(1, 6), losses)]
    assert lines(objective_minutes)[0] == [
        [minute, loss] for minute, loss in zip([0.5, 1.5, 3.0, 5.0, 7.5], losses)]
    for axis, x in ((validation, [1, 3, 5]), (validation_minutes, [0.5, 3.0, 7.5])):
        assert lines(axis) == [
            [[at, value] for at, value in zip(x, values)]
            for values in ([1.0, -1.0, 1.0], [0.0, -2.0, 0.0], [-1.0, -3.0, -1.0])]
    texts = {text.get_text() for axis in figure.axes for text in axis.texts}
    assert texts == {"running mean", "mean over the runs", "score", "at their ends"}


def test_a_running_mean_is_over_what_lies_near():
    values = np.array([0.0, 3.0, 6.0, 12.0])
    np.testing.assert_allclose(curve.smooth(values, 0), values)
    np.testing.assert_allclose(curve.smooth(values, 1), [1.5, 3.0, 7.0, 9.0])


def test_a_run_that_has_just_begun(tmp_path, capsys, figures):
    folder = logged(tmp_path / "run", [{"step": 1, "losses": {"a": 0.5}, "seconds": 6.0}])
    path = tmp_path / "curve.png"
    assert main(["curve", folder, f"--out={path}"]) == 0
    printed = capsys.readouterr().out
    assert '"best_validation": null' in printed and str(path) in printed
    assert "no validation yet" in {text.get_text() for text in figures[0].axes[2].texts}


@pytest.mark.parametrize("records", [None, []])
def test_no_run_is_one_clear_error(tmp_path, capsys, records):
    folder = tmp_path / "run"
    if records is not None:
        logged(folder, records)
    assert main(["curve", str(folder), f"--out={tmp_path / 'c.png'}"]) == 2
    assert "RUN must be a folder with a log.jsonl" in capsys.readouterr().err
    assert main(["curve", "a", "b"]) == 2
    assert "give one RUN" in capsys.readouterr().err
    assert not (tmp_path / "c.png").exists()
