"""Test accuracy with what is said to mend it."""

import dataclasses
import json
import os

import pytest

if os.environ.get("KERAS_BACKEND") != "jax":
    pytest.skip("needs the JAX backend", allow_module_level=True)

from eval.__main__ import main
from eval.commands import accuracy
from eval.runs.run import Run


def test_one_half_chooses_and_the_other_counts():
    # The first half is best at 100, where the second has 0.5; the second at 300: 0.7.
    curve = [[100, 0.9, 0.5], [200, 0.8, 0.6], [300, 0.7, 0.7]]
    assert accuracy.stopped({"accuracy_curve": curve}) == (pytest.approx(0.6), 200)


def test_a_run_with_options_and_accuracies(digits):
    run = Run("mlp_relu", "hrnn", 100, weights="rule")
    watched = dataclasses.replace(run, accuracies=True)
    decayed = dataclasses.replace(run, options=(("weight_decay", 1.0),))
    averaged = dataclasses.replace(run, options=(("use_ema", True), ("ema_momentum", 0.5)))
    assert len({repr(one.configuration(digits)) for one in (run, watched, decayed, averaged)}) == 4
    assert set(run.configuration(digits)).isdisjoint({"options", "accuracies"})
    assert decayed.title == f"{run.title}-weight_decay=1.0"
    found = {one: one.execute(digits) for one in (watched, decayed, averaged)}
    (_, *first), (step, *last) = found[watched]["accuracy_curve"]
    assert step == 100 and first != last
    assert sum(last) / 2 == pytest.approx(found[watched]["test_accuracy"], abs=2e-3)
    losses = [found[one]["final_training_loss"] for one in (watched, decayed, averaged)]
    assert losses[1] > 1.5 * losses[0] and losses[2] != losses[0]


def test_the_command(fake_runs, no_workers, monkeypatch, data_dir, tmp_path, capsys):
    def execute(run, data, on_progress=None):
        result = fake_runs(run, data)
        better = 0.05 if dict(run.options).get("weight_decay") == 0.01 else 0.0
        return {**result, "test_accuracy": 0.9 + better,
                "accuracy_curve": [[50, 0.93, 0.93], [run.steps, 0.9 + better, 0.9 + better]]}

    monkeypatch.setattr(Run, "execute", execute)
    flags = ["accuracy", f"--data_dir={data_dir}", "--networks=mlp_relu,rows_gru", "--steps=200",
             f"--store={tmp_path / 'store'}", f"--out={tmp_path}", f"--baselines={tmp_path}"]
    assert main([*flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["gains"][accuracy.AS_IT_COMES] == {
        "accuracies": 0, "stopped": pytest.approx(0.03)}
    assert found["gains"]["decay 0.01"] == {
        "accuracies": pytest.approx(0.05), "stopped": pytest.approx(0.05)}
    assert found["networks"]["mlp_relu"]["decay 0.03"]["stops"] == [50, 50, 50]
    assert len(fake_runs.runs) == 2 * 3 * len(accuracy.settings())
    assert (tmp_path / "accuracy.png").stat().st_size > 1000
    page = (tmp_path / "accuracy.md").read_text()
    assert "| decay 0.01 | +5.00 % | +5.00 % |" in page
    assert main(flags) == 0
    assert len(fake_runs.runs) == 2 * 3 * len(accuracy.settings())
    assert page in capsys.readouterr().out


@pytest.mark.parametrize("flags, message", [
    (["--networks=nobody"], "--networks"), (["--weights=nobody"], "`weights` must be one of"),
    (["--steps=10"], "steps"),
])
def test_what_cannot_be_run_is_refused(flags, message, data_dir, capsys):
    assert main(["accuracy", f"--data_dir={data_dir}", *flags]) == 2
    assert message in capsys.readouterr().err
