import base64
import html
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

if os.environ.get("KERAS_BACKEND") != "jax":
    pytest.skip("needs the JAX backend", allow_module_level=True)

from eval.__main__ import main
from eval.commands import report
from eval.figures import (
    FIGURES,
    ablations,
    carry_over,
    compare,
    home_turf,
    imagenet,
    learning_rates,
    step_time,
)
from eval.figures.context import BUDGETS
from eval.runs.ellipse_run import EllipseRun
from eval.runs.meta_run import MetaRun
from eval.runs.problem_run import ProblemRun
from eval.runs.workers import Workers
from train.config import TrainConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture
def inline(monkeypatch, fake_runs):
    """Runs are answered by a formula, in this process."""
    monkeypatch.setattr(
        Workers, "executed", lambda self, runs, data: [(run, run.execute(data)) for run in runs])
    return fake_runs


@pytest.fixture
def formulas(monkeypatch, inline):
    """So are runs of every other kind."""
    from hrnn_opt import CoordinatewiseLSTM, Pretrained

    weights = base64.b64encode(Pretrained.from_network(CoordinatewiseLSTM()).to_bytes()).decode()

    def meta(run, data):
        off = json.loads(run.config)["seed"] + (run.name != ablations.FULL)
        return {"curve": [[0, 0.0], [60, off - 5.0]], "safetensors": weights}

    def problem(run, data):
        ends = [[0.1 if rate is None else 10 * rate + k / 10 for k in range(run.instances)]
                for rate in run.rates]
        return {"steps_of_points": [1, 1000], "curves": [[[1.0, y] for y in row] for row in ends]}

    def timing(run, data):
        ratios = {"adam": 1 + 6 / run.batch_size, "rmsprop": 2.0, "sgd": 3.0}
        return {"relative": ratios, "step_seconds": {"hrnn": 1.0, **ratios}}

    def large(run, data):
        return {"curve": [[10, 1.0], [60, run.learning_rate or 0.5]], "final_training_loss":
                run.learning_rate or 0.5}

    def ellipse(run, data):
        end = 0.1 if run.momentum is None else 0.2
        return {"curve": [[1, 1.0], [60, end]], "final_training_loss": end}

    for kind, formula in (
        (EllipseRun, ellipse), (MetaRun, meta), (ProblemRun, problem), (step_time.Timing, timing),
        (imagenet.ImagenetRun, large),
    ):
        monkeypatch.setattr(kind, "execute", lambda run, data, formula=formula: {
            "diverged": False, "seconds": 1.0, **formula(run, data), **run.configuration(data)})


def figure(capsys, tmp_path, *arguments):
    assert main([*arguments, f"--store={tmp_path / 'store'}", f"--out={tmp_path / 'out'}",
                 "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_figure_is_made_in_processes_and_again_from_what_is_left(capsys, tmp_path):
    arguments = ["figure", "3", "--budget=smoke", "--processes=2"]
    record = figure(capsys, tmp_path, *arguments)
    (series,) = record["panels"].values()
    assert {s["kind"] for s in series} == {"learned", "tuned", "tuned on each", "untuned"}
    for one in series:
        assert one["steps"] == list(range(1, BUDGETS["smoke"].problem_steps + 1))
        assert one["median"][-1] < 1
    for ending in ("png", "svg", "json"):
        assert (tmp_path / "out" / f"figure_3.{ending}").stat().st_size > 1000
    kept = {path: path.read_bytes() for path in (tmp_path / "store").glob("*.json")}
    gone = next(path for path in kept if "adam-" in path.name)
    gone.unlink()
    again = figure(capsys, tmp_path, *arguments)
    # The same numbers, but for the time that they took.
    for one in (record, again):
        for s in one["panels"]["quadratic"]:
            s.pop("seconds")
    assert {k: v for k, v in again.items() if k != "seconds"} == {
        k: v for k, v in record.items() if k != "seconds"}
    assert all(path.read_bytes() == content for path, content in kept.items() if path != gone)


def test_mnist_figure_and_the_report_of_it(capsys, tmp_path, inline, data_dir):
    record = figure(capsys, tmp_path, "figure", "4a", f"--data_dir={data_dir}")
    assert set(record["panels"]) == set(BUDGETS["small"].networks)
    rows = {row[0]: row for row in record["table"]["rows"]}
    # The formula: 0.1 at a rate of 0.01, and for those without a rate.
    assert rows["Adam"][2] == "0.100 (0.01)"
    assert rows["Prodigy"][2] == rows["paper"][2] == rows["default"][2] == "0.100"
    assert record["verdict"]["holds"]
    # A search on one seed, and the best rate on the others too.
    of_adam = [run for run in inline.runs
               if run.optimizer == "adam" and run.network == "mlp_relu"]
    assert len(of_adam) == len(BUDGETS["small"].rates) + 2
    (summary,) = figure(capsys, tmp_path, "report", "--figures=")
    assert summary["verdict"] == record["verdict"]
    text = (tmp_path / "out" / "report.md").read_text()
    page = re.sub("</?code>", "`", html.unescape((tmp_path / "out" / "report.html").read_text()))
    for part in (record["claim"], record["verdict"]["sentence"], "It holds.", record["command"],
                 "Not made: 2, 3, 4b, 5, 6, 7, generalisation, switch."):
        assert part in text
        assert part in page
    assert "figure_4a.png" in text
    assert "data:image/png;base64," in page
    assert "src=\"figure" not in page
    # Pages of other commands are parts of it.
    folder = tmp_path / "out"
    (folder / "ablate.md").write_text("# Parts\n\n# of code\n\n## One\n\n![x](ablate.png)\n")
    (folder / "ablate.png").write_bytes((folder / "figure_4a.png").read_bytes())
    figure(capsys, tmp_path, "report", "--figures=")
    assert (folder / "report.md").read_text() == (
        f"{text}\n## Parts\n\n## of code\n\n### One\n\n![x](ablate.png)\n")
    assert "src=\"ablate" not in (folder / "report.html").read_text()


def test_the_report_of_this_repository_is_of_its_figures():
    folder = ROOT / "eval/report"
    assert (folder / "report.md").read_text() == report.markdown(
        report.read(folder), report.others(folder))


def test_every_figure_says_whether_its_claim_holds(capsys, tmp_path, formulas, data_dir):
    summary = figure(capsys, tmp_path, "report", f"--data_dir={data_dir}")
    holds = {one["figure"]: one["verdict"]["holds"] for one in summary}
    assert holds == {"2": False, "3": True, "4a": True, "4b": None, "5": False, "6": None,
                     "7": True, "generalisation": True, "switch": True}
    for name in FIGURES:
        record = json.loads((tmp_path / "out" / f"figure_{name}.json").read_text())
        assert all(len(row) == len(record["table"]["header"]) for row in record["table"]["rows"])
        assert record["seconds"] > 0 or name in ("4a", "generalisation")
        assert (tmp_path / "out" / f"figure_{name}.png").stat().st_size > 5000


@pytest.mark.parametrize("arguments, named", [
    (["figure"], "4a"), (["figure", "9"], "4a"), (["figure", "3", "--budget=tiny"], "budget"),
    (["figure", "3", "--weights=nowhere"], "nowhere"),
    (["figure", "3", "--data_dir=nowhere"], "data_dir"),
    (["report", "--figures=9"], "9"), (["report", "--figures=", "--out=nowhere"], "no figures"),
    (["benchmark", "nothing"], "train"),
    (["benchmark", "step", "--parameters=9", "--tensors=20"], "`parameters` must be enough"),
])
def test_what_cannot_be_made_gives_one_clear_error(capsys, arguments, named):
    assert main(arguments) == 2
    assert named in capsys.readouterr().err


def test_processes_end_when_the_program_is_killed(tmp_path):
    script = (
        "import dataclasses, time\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Sleep:\n"
        "    number: int\n"
        "    def execute(self, data):\n"
        "        print(os.getpid(), flush=True)\n"
        "        time.sleep(600)\n"
        "import os\n"
        "if __name__ == '__main__':\n"
        "    from eval.runs.workers import Workers\n"
        f"    with Workers(2, {str(tmp_path)!r}) as workers:\n"
        "        list(workers.executed([Sleep(0), Sleep(1)], None))\n")
    path = tmp_path / "sleepers.py"
    path.write_text(script)
    program = subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True,
                               env=os.environ | {"PYTHONPATH": str(ROOT)})
    pids = [int(program.stdout.readline()) for _ in range(2)]
    program.send_signal(signal.SIGKILL)
    program.wait()

    def runs(pid):
        state = Path(f"/proc/{pid}/stat")
        # What nobody waits for stays in the table, as a zombie.
        return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"

    deadline = time.monotonic() + 60
    while any(map(runs, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_quartiles_count_what_diverged_as_worst():
    results = [
        {"curve": [[1, 1.0], [2, y]] if y else [[1, 1.0]], "final_training_loss": y,
         "diverged": y is None, "seconds": 1.0} for y in (0.5, None, 0.1)]
    series = compare.quartiles(results)
    assert series["steps"] == [1, 2]
    assert series["median"] == [1.0, 0.5]
    assert series["high"][-1] is None
    assert compare.final(series) == 0.5
    assert compare.final({"final": [None, None, 0.1]}) == math.inf


def test_every_ablation_is_a_training_of_its_own():
    configs = {name: TrainConfig(**json.loads(ablations.training(name, 10, 0).config))
               for name in ablations.ABLATIONS}
    assert len({config.to_json() for config in configs.values()}) == len(configs)
    assert configs[ablations.FULL].network_config.core.lookahead


def series(**medians):
    return [{"name": name, "kind": "tuned" if name == "Adam" else "learned", "final": [loss]}
            for name, loss in medians.items()]


def test_verdicts_say_what_was_seen():
    def carries(sigmoid, relu):
        return carry_over.verdict({
            "mlp_sigmoid": series(Adam=1.0, ours=1.0, **{carry_over.LSTM: sigmoid}),
            "mlp_relu": series(Adam=1.0, ours=1.0, **{carry_over.LSTM: relu})}, "ours")

    assert carries(1.5, 9.0)["holds"] is True
    assert carries(1.5, 2.0)["holds"] is False
    assert carries(3.0, 9.0)["holds"] is None

    def ablated(*ends):
        return ablations.verdict([
            {"name": str(i), "low": [end - 0.1], "high": [end + 0.1]}
            for i, end in enumerate(ends)])["holds"]

    assert ablated(0, 1, 2) is True
    assert ablated(0, 1, -1) is False
    assert ablated(0, 1, 0.1) is None

    def swept(ours, theirs):
        panel = [{"name": name, "decades": decades, "learned": name != "Adam"}
                 for name, decades in (("others", 9), ("ours", ours), ("Adam", theirs))]
        return learning_rates.verdict({"task": panel}, "ours", True)["holds"]

    assert swept(4, 2) and not swept(3, 2)
    panels = {"a": series(Adam=1.0, others=0.2, ours=0.5)}
    for one in ("tuned on each", "untuned"):
        panels["a"].append({"name": "Adam", "kind": one, "final": [0.1]})
    found = home_turf.verdict(panels, "ours")
    assert found["holds"]
    assert "on 1, than the best tuned on each problem on 0" in found["sentence"]
    panels["a"][2]["final"] = [2.0]
    assert not home_turf.verdict(panels, "ours")["holds"]
    both = compare.verdict_of_each(
        ["ours", "others"], lambda name: home_turf.verdict(panels, name))
    assert not both["holds"]
    assert re.match("`ours`: .* `others`: ", both["sentence"])


def test_swept_rates_count_by_decades():
    results = [[{"diverged": loss is None, "final_training_loss": loss}]
               for loss in (1.0, 0.2, 0.1, None)]
    found = learning_rates._series("adam", False, (1e-4, 1e-3, 1e-2, 1e-1), results)
    assert found["decades"] == 2
    assert found["median"] == [1.0, 0.2, 0.1, None]
    assert np.isclose(found["lowest"], 0.1)
