"""The picture of a run's effective learning rates."""

import json

import keras
import matplotlib.image
import numpy as np
import pytest

from eval.__main__ import main
from eval.commands import dynamics
from eval.runs.step_sizes import StepSizes
from hrnn_opt import LearningRateDynamics
from hrnn_opt.training.dynamics import tag
from hrnn_opt.training.events import EventWriter
from tests.hrnn_opt.support import fit, hierarchical_optimizer, model

MEDIAN = "log learning rate/median"


def write(folder, steps, tensors):
    """Events as `LearningRateDynamics` writes them, and others that are none of our business."""
    writer = EventWriter(folder)
    for step in steps:
        writer.write(step, {
            tag(MEDIAN): -1.0, tag("update RMS", "m/a/kernel"): 7.0,
            **{tag("log learning rate/mean", name): 9.0 for name in tensors},
            **{tag(MEDIAN, name): np.log(rate(step)) for name, rate in tensors.items()
               if np.isfinite(rate(step))}})
    writer.close()
    return str(folder)


TENSORS = {
    "m/b/kernel": lambda step: 1e-3 * step, "m/a/kernel": lambda step: 0.1 / step,
    "m/a/bias": lambda step: 0.5 if step > 10 else np.nan}


def test_rates_over_batches_and_a_map_of_tensors(tmp_path, capsys, figures):
    folder = write(tmp_path / "logs", [10, 20, 30], TENSORS)
    path = tmp_path / "pictures" / "dynamics.png"
    assert main(["dynamics", folder, f"--out={path}", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report.pop("last_learning_rates") == pytest.approx(
        {"m/b/kernel": 0.03, "m/a/kernel": 0.1 / 30, "m/a/bias": 0.5})
    assert report == {"logged_batches": 3, "last_batch": 30}
    assert matplotlib.image.imread(path).std() > 0.05
    curves, heat, _ = figures[0].axes
    assert curves.get_xscale() == curves.get_yscale() == heat.get_xscale() == "log"
    for line, rate in zip(curves.lines, TENSORS.values(), strict=True):
        x, y = line.get_data()
        assert list(x) == [10, 20, 30]
        np.testing.assert_allclose(y, [rate(step) for step in x], rtol=1e-5)
    # Without what all have in common; from the first tensor at the top.
    names = ["b/kernel", "a/kernel", "a/bias"]
    assert {text.get_text() for text in curves.texts} == set(names)
    assert [label.get_text() for label in heat.get_yticklabels()] == names
    assert heat.yaxis_inverted()
    (image,) = heat.collections
    np.testing.assert_allclose(
        image.get_array().filled(np.nan),
        [[rate(step) for step in (10, 20, 30)] for rate in TENSORS.values()], rtol=1e-5)


def test_files_of_several_runs_are_one_curve(tmp_path):
    # The second run is resumed from a batch before the end of the first.
    write(tmp_path, [10, 20], {"a": lambda step: 1.0})
    write(tmp_path, [20, 30], {"a": lambda step: 2.0})
    steps, rates = dynamics.read(tmp_path)
    assert steps.tolist() == [10, 20, 30]
    np.testing.assert_allclose(rates["a"], [1, 2, 2], rtol=1e-6)


def test_many_tensors_have_few_labels(tmp_path, figures):
    # All but the last close together.
    tensors = {
        f"m/{k}/kernel": lambda step, k=k: 1e-3 * (10 if k == 159 else 1.0001**k)
        for k in range(160)}
    assert main(["dynamics", write(tmp_path, [100, 200], tensors),
                 f"--out={tmp_path / 'd.png'}"]) == 0
    curves, heat, _ = figures[0].axes
    assert len(curves.lines) == 160
    heights = sorted(text.xyann[1] for text in curves.texts)
    assert len(heights) == 8 and min(np.diff(heights)) > 0.05 and heights[-1] <= 1 + 1e-9
    assert {"0/kernel", "159/kernel"} <= {text.get_text() for text in curves.texts}
    assert 10 < len(heat.get_yticks()) <= 24


def test_what_the_callback_writes_is_read(tmp_path, capsys, figures):
    network = model(optimizer=hierarchical_optimizer())
    fit(network, callbacks=[LearningRateDynamics(tmp_path, every=4, histograms=False)])
    assert main(["dynamics", str(tmp_path), f"--out={tmp_path / 'd.png'}", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["last_batch"] == 4 and report["logged_batches"] == 1
    assert list(report["last_learning_rates"]) == [v.path for v in network.trainable_variables]


@pytest.mark.parametrize("events", [None, []])
def test_no_logs_is_one_clear_error(tmp_path, capsys, events):
    folder = tmp_path / "run"
    if events is not None:
        write(folder, events, TENSORS)
    assert main(["dynamics", str(folder), f"--out={tmp_path / 'd.png'}"]) == 2
    assert "RUN_DIR must be a folder with event files of LearningRateDynamics" in (
        capsys.readouterr().err)
    assert main(["dynamics"]) == 2
    assert "give one RUN_DIR" in capsys.readouterr().err
    assert not (tmp_path / "d.png").exists()


def test_adams_steps_are_drawn_beside(tmp_path, figures, capsys):
    for name, opt, callback in (
            ("ours", hierarchical_optimizer(), LearningRateDynamics), ("adam", "adam", StepSizes)):
        keras.utils.clear_session()
        network = model(optimizer=opt)
        fit(network, epochs=2, callbacks=[callback(tmp_path / name, every=2)])
    arguments = ["dynamics", str(tmp_path / "ours"), f"--out={tmp_path / 'd.png'}"]
    assert main([*arguments, f"--beside={tmp_path / 'adam'}"]) == 0
    *_, steps, _ = figures[0].axes
    assert len(steps.lines) == 2 * len(network.trainable_variables)
    ours, theirs = steps.lines[0], steps.lines[len(network.trainable_variables)]
    assert list(ours.get_xdata()) == list(theirs.get_xdata()) == [2, 4, 6, 8]
    # Adam's first steps are of its learning rate.
    np.testing.assert_allclose(theirs.get_ydata()[0], 1e-3, rtol=0.3)
    assert main([*arguments, f"--beside={tmp_path}"]) == 2
    assert "--beside must be" in capsys.readouterr().err
