"""The rule with each of its parts off."""

import json
import math
import os

import pytest

if os.environ.get("KERAS_BACKEND") != "jax":
    pytest.skip("needs the JAX backend", allow_module_level=True)

from pathlib import Path
from types import SimpleNamespace

from eval.__main__ import main
from eval.commands import ablate
from eval.runs.store import Store
from eval.runs.suite_run import POINTS, SuiteRun
from hrnn_opt import Pretrained
from hrnn_opt.files.resolve import resolve
from hrnn_opt.rules.chain import rules_around


def chain(network):
    return [(rule.Config.NAME, rule.config) for rule in rules_around(network)]


def test_the_whole_is_the_shipped_rule_and_each_variant_lacks_what_it_is_called():
    made = {name: make() for name, make in ablate.variants().items()}
    whole = Pretrained.from_network(made.pop("rule"), learning_rate=ablate.RATE)
    assert whole.to_bytes() == resolve("rule").to_bytes()
    full = chain(whole.network())
    for part in ("rotation", "averaging", "alignment", "rescaling"):
        assert chain(made.pop(part)) == [one for one in full if one[0] != part]
    for name, switches in (("width", {"width_exponent": 0.0}), ("bound", {"bounded": False})):
        differing = [(one, other) for one, other in zip(chain(made.pop(name)), full)
                     if one != other]
        (((kind, config), (_, usual)),) = differing
        assert kind == "rescaling"
        assert config.to_dict() == {**usual.to_dict(), **switches}
    assert not made


@pytest.fixture
def fake_suite_runs(monkeypatch):
    """Without rotation losses double, at any rate; without width they are four times as large but
    at four times the rate; else the rate of `rule` is best."""
    runs = []

    def execute(run, data):
        runs.append(run)
        factor = (run.learning_rate or ablate.RATE) / ablate.RATE
        loss, best = 0.01, 1.0
        if "without_rotation" in run.weights:
            loss = 0.02
        if "without_width" in run.weights:
            best = 4.0
        loss *= 4 ** abs(math.log(factor / best, 4))
        every = run.steps // POINTS
        return {"steps_of_points": [every * (i + 1) for i in range(POINTS)],
                "curves": [[loss] * POINTS for _ in range(run.instances)], "seconds": 0.0,
                **run.configuration(data)}

    monkeypatch.setattr(SuiteRun, "execute", execute)
    return runs


def test_ratios_at_the_own_rate_and_at_the_best(fake_suite_runs, tmp_path):
    store = Store(tmp_path, SimpleNamespace(fingerprint=None))
    budget = ablate.Budget((0, 3), 50, (0.25, 1.0, 4.0), 2)
    found = ablate.report(budget, store)
    expected = {"rotation": (2, 2), "width": (4, 1), "bound": (1, 1), "averaging": (1, 1)}
    for name, ratios in expected.items():
        for way, ratio in zip((ablate.OWN, ablate.BEST), ratios):
            one = found["without"][name][way]
            assert math.exp(one["mean"]) == pytest.approx(ratio, rel=1e-3)
            assert one["standard_error"] == pytest.approx(0, abs=1e-9)
    assert found["without"]["width"][ablate.BEST]["rates"] == [4 * ablate.RATE] * 2
    count = len(fake_suite_runs)
    ablate.report(budget, store)
    assert len(fake_suite_runs) == count
    page = ablate.markdown({**found, "budget": "none"}, "command")
    assert "| rotation | 2.000 (2.000 to 2.000) | 0 of 2 | 2 of 2 |" in page


def test_the_command(fake_suite_runs, no_workers, tmp_path, capsys):
    flags = ["ablate", "--budget=smoke", f"--store={tmp_path / 'store'}", f"--out={tmp_path}"]
    assert main([*flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "ablate.json").read_text())
    assert found["tasks"] == ["GatedPerceptron"]
    # One task has no standard error.
    assert "| rotation | 2.000 | 0 of 1 | 1 of 1 |" in (tmp_path / "ablate.md").read_text()
    assert Path(tmp_path / "ablate.png").stat().st_size > 1000
    assert main(["ablate", "--budget=huge"]) == 2
    assert "budget" in capsys.readouterr().err
