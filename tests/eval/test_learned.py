"""Weights beside those they started from."""

import json
import math

import numpy as np
import pytest

from eval.__main__ import main
from eval.commands import learned
from eval.runs import suite_run


def result(*curves):
    return {"steps_of_points": [10 * (i + 1) for i in range(len(curves[0]))], "curves": curves}


def test_losses_are_compared_by_seed_and_step():
    ours, theirs = result([0.5, 0.1], [0.5, None]), result([0.5, 0.2], [0.25, 0.1])
    assert learned.compare(ours, theirs, 10) == pytest.approx([0, math.log(2)], abs=1e-5)
    # Not finite counts as the start.
    assert learned.compare(ours, theirs, 20) == pytest.approx(
        [-math.log(2), math.log(10)], abs=1e-4)
    assert learned.compare(ours, theirs, 20, since=10) == pytest.approx(
        [-math.log(2) / 2, math.log(20) / 2], abs=1e-4)
    # What is learned by heart counts no further.
    assert abs(learned.compare(result([1e-9]), result([1e-12]), 10)[0]) < 0.01


def test_steps_to_where_the_other_ends():
    theirs = result([0.5, 0.4, 0.3, 0.2])
    assert learned.steps_to_reach(result([0.2, 0.4, 0.1, 0.1]), theirs) == [math.log(1 / 4)]
    assert learned.steps_to_reach(result([0.9, 0.2, 0.1, 0.1]), theirs) == [math.log(2 / 4)]
    assert learned.steps_to_reach(result([0.9, 0.9, 0.9, 0.9]), theirs) == [0.0]


def test_the_error_is_that_of_tasks_and_not_of_their_seeds():
    found = learned.summary([[-1.0, -1.0, -1.0], [0.5, 0.5, 0.5]])
    assert found == {"mean": -0.25, "standard_error": pytest.approx(0.75), "better": 1, "worse": 1}
    assert learned.summary([[1.0]])["standard_error"] is None


@pytest.mark.parametrize("flags, message", [
    (["--suite=none"], "--suite: there is no 'none'"),
    (["--steps=10"], "--steps must be multiples of the largest over 50"),
    (["--steps=7,100"], "--steps must be multiples of the largest over 50"),
    (["--tasks=99"], "--tasks must be below"),
    (["--weights=nobody"], "`weights` must be one of"),
])
def test_what_cannot_be_run_is_refused(flags, message, capsys):
    assert main(["learned", "--weights=rule", *flags]) == 2
    assert message in capsys.readouterr().err


def test_the_command(tmp_path, capsys):
    flags = ["learned", "--weights=default", "--suite=quadratic", "--tasks=0", "--seeds=2",
             "--steps=50,100", f"--store={tmp_path / 'store'}", f"--out={tmp_path}"]
    assert main([*flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "learned.json").read_text())
    # `default` makes the steps of `rule`.
    for title in ("50 steps", "100 steps", "the last tenth"):
        (differences,) = found["weights"]["default"][title]["differences"]
        assert len(differences) == 2 and np.abs(differences).max() < 0.1
    assert (tmp_path / "learned.png").stat().st_size > 1000
    (task,) = found["tasks"]
    runs = [suite_run.SuiteRun("quadratic", 0, 100, 2, name) for name in ("rule", "default")]
    store = learned.Store(tmp_path / "store", learned.SimpleNamespace(fingerprint=None))
    curves = np.array(store.get(runs[0])["curves"])
    assert task == "Quadratic" and curves.shape == (2, 50) and np.all(curves[:, -1] < curves[:, 0])
    # Other draws.
    assert main([*flags, "--seed=7", "--json"]) == 0
    other = json.loads(capsys.readouterr().out)
    assert (found["seed"], other["seed"]) == (1000, 7)
    drawn = store.get(suite_run.SuiteRun("quadratic", 0, 100, 2, "rule", seed=7))
    assert drawn["curves"] != store.get(runs[0])["curves"]
    assert main([*flags, "--against=adam"]) == 0
    assert "default beside adam" in capsys.readouterr().out
    adam = store.get(suite_run.SuiteRun("quadratic", 0, 100, 2, optimizer="adam"))
    assert np.shape(adam["curves"]) == (2, 50)
