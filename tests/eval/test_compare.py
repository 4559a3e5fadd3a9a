"""Weights beside the baselines of today."""

import copy
import dataclasses
import json
import os

import pytest

if os.environ.get("KERAS_BACKEND") != "jax":
    pytest.skip("needs the JAX backend", allow_module_level=True)

import numpy as np

from eval.__main__ import main
from eval.runs import contest, optimizers, practice, torch_step
from eval.runs.suite_run import POINTS, SuiteRun
from eval.runs.torch_step import TorchStep


@pytest.fixture
def fake_suite_runs(monkeypatch, fake_runs, no_workers):
    """Training by a formula: losses fall as 1 / step, from a rate that is best at 0.01 (Prodigy's
    at 1); the weights begin at a third of the best. Weights take twice as long for a step."""
    runs = []

    def execute(run, data):
        runs.append(run)
        rate = (run.learning_rate or 0.1) / optimizers.RATE_FACTORS.get(run.optimizer, 1)
        size = 1 / 3 if run.weights else 10 ** abs(np.log10(rate / 0.01))
        every = run.steps // POINTS
        steps = [every * (i + 1) for i in range(POINTS)]
        curves = [[size * (1 + 0.1 * k) / step if rate < 1 else None for step in steps]
                  for k in range(run.instances)]
        return {"steps_of_points": steps, "curves": curves, "seconds": 0.0,
                "step_seconds": 2.0 if run.weights else 1.0 if run.learning_rate else 9.0,
                **run.configuration(data)}

    monkeypatch.setitem(contest.BUDGETS, "small", dataclasses.replace(
        contest.BUDGETS["small"], numbers=(0, 7), networks=("mlp_relu", "conv_relu"),
        practice=("shuttle",), practice_part=0.1, rates=(1e-3, 1e-2, 1e-1)))
    monkeypatch.setattr(SuiteRun, "execute", execute)
    monkeypatch.setattr(TorchStep, "execute", lambda step, data: {
        "step_seconds": 2.0, "seconds": 0.0, **step.configuration(data)})
    return runs


def test_the_command(fake_suite_runs, fake_runs, data_dir, tmp_path, capsys):
    flags = ["compare", "--budget=small", f"--store={tmp_path / 'store'}", f"--out={tmp_path}",
             f"--data_dir={data_dir}", "--tasks=suite,practice"]
    assert main([*flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "compare.json").read_text())
    assert (tmp_path / "compare.png").stat().st_size > 1000
    suite = [task for task in found["tasks"] if task["group"] == contest.SUITE]
    assert [task["name"] for task in found["tasks"]] == [
        "FullyConnected", "LSTMLanguageModel", "shuttle", "mlp_relu", "conv_relu"]
    assert [task["steps"] for task in found["tasks"]] == [1000, 1000, 100, 1000, 200]
    assert [task["seeds"] for task in found["tasks"]] == [5, 5, 3, 3, 3]
    for task in suite:
        # The median of five tuned baselines is 1.2 / step: at point 37 of 50.
        assert task["target"] == pytest.approx(1.2 / 740, rel=1e-4)
        assert task["entries"]["adam"]["learning_rate"] is None
        for name in optimizers.TODAY:
            for schedule in optimizers.SCHEDULES:
                row = task["entries"][f"{name}, {schedule}"]
                assert row["learning_rate"] == (1 if name == "prodigy" else 0.01)
                assert not row["at_edge"]
        # The median of a baseline's runs, of which the most are for tuning.
        assert task["entries"]["adam, cosine"]["step_seconds"] == 1
        assert task["entries"]["adam"]["step_seconds"] == 1
        ours = task["entries"]["rule"]
        assert ours["steps"][2] == pytest.approx(740 / 3, rel=1e-4)
        assert ours["seconds"][2] == pytest.approx(2 * 740 / 3, rel=1e-4)
        # A step of SGD on JAX and, by itself, one of SOAP on PyTorch.
        soap = task["entries"]["soap, cosine"]
        assert soap["step_seconds"] == 3 and soap["seconds"][2] == pytest.approx(3 * 740, rel=1e-4)
    # Equal budgets: as many runs to choose by for each baseline and schedule.
    chosen_by = [run for run in fake_suite_runs if run.seed == contest.TUNING_INSTANCES]
    assert len(chosen_by) == 2 * 12 * 3
    assert {run.seed for run in fake_runs.runs if run.learning_rate} == {100, 0, 1, 2}
    # The same again runs nothing.
    before = len(fake_suite_runs), len(fake_runs.runs)
    assert main(flags) == 0
    assert (len(fake_suite_runs), len(fake_runs.runs)) == before
    page = capsys.readouterr().out
    assert page.index("Where `rule` is behind") < page.index("## Scores")
    assert page.index("## Scores") < page.index("## `rule` beside each")
    # The formula for images knows only rates: cosine halves its loss.
    assert "| best tuned | final training loss | 3 of 5 |" in page
    assert "| best untuned | final training loss | 0 of 5 |" in page
    assert "| best tuned | steps to the target | 3 of 5 |" in page
    assert (tmp_path / "compare.md").read_text() in page


def test_tasks_of_another_run_are_joined(fake_suite_runs, fake_runs, data_dir, tmp_path, capsys):
    def compare(out, *flags):
        code = main(["compare", f"--store={tmp_path / 'store'}", f"--out={tmp_path / out}", *flags])
        return code, capsys.readouterr()

    everything = ["--tasks=suite,practice", f"--data_dir={data_dir}"]
    assert compare("all", *everything)[0] == 0
    assert compare("others", "--tasks=suite", f"--data_dir={data_dir}")[0] == 0
    others = f"--joined={tmp_path / 'others' / 'compare.json'}"
    assert compare("joined", "--tasks=shuttle", others)[0] == 0
    # The same as of one run, and the page names the command of that.
    for name in ("compare.json", "compare.md"):
        assert ((tmp_path / "joined" / name).read_text() == (tmp_path / "all" / name).read_text())
    # Nothing has to be run.
    before = len(fake_suite_runs), len(fake_runs.runs)
    assert compare("again", "--tasks=", others)[0] == 0
    assert (len(fake_suite_runs), len(fake_runs.runs)) == before
    assert ((tmp_path / "again" / "compare.json").read_text()
            == (tmp_path / "others" / "compare.json").read_text())
    # What does not fit is refused, before anything is written.
    broken = tmp_path / "broken.json"
    broken.write_text('{"tasks": []}')
    record = json.loads((tmp_path / "others" / "compare.json").read_text())
    for i, change in enumerate([
            lambda task: task.pop("group"), lambda task: task.update(group="others"),
            lambda task: task.update(entries=[]), lambda task: task["entries"].pop("rule"),
            lambda task: task["entries"]["rule"].update(steps="many")]):
        changed = copy.deepcopy(record)
        change(changed["tasks"][0])
        (tmp_path / f"changed_{i}.json").write_text(json.dumps(changed))
    for flags, message in [
        (["--tasks=suite", others], "FullyConnected would be there twice"),
        (["--tasks=shuttle", "--budget=smoke", others], "has budget small, and this run has smoke"),
        (["--tasks=shuttle", f"--joined={broken}"], "is no compare.json"),
        (["--tasks=shuttle", f"--joined={tmp_path / 'none'}"], "is no compare.json"),
        *((["--tasks=shuttle", f"--joined={tmp_path / f'changed_{i}.json'}"], "is no compare.json")
          for i in range(5)),
    ]:
        code, said = compare("refused", *flags)
        assert code == 2 and message in said.err
    assert not (tmp_path / "refused").exists()


def row(group, steps, **others):
    return {"group": group, "learning_rate": None, "at_edge": False, "steps": steps,
            "seconds": None, "losses": [1.0, 1.0, 1.0], "accuracies": None,
            "step_seconds": None, **others}


def test_what_is_behind_by_most_stands_first():
    tasks = [
        {"name": "even", "entries": {"w": row("weights", [5, 5, None]),
                                     "a": row("untuned", [9, 5, 5])}},
        {"name": "behind", "entries": {"w": row("weights", [9, 6, 7]),
                                       "a": row("untuned", [8, 8, 8]),
                                       "b": row("untuned", [2, 3.5, 9])}},
        {"name": "lost", "entries": {
            "w": row("weights", [None, 6, None], accuracies=[0.9, 0.8, 0.9]),
            "a": row("untuned", [9, 9, 9], accuracies=[0.95, 0.95, 0.7])}},
        {"name": "nobody", "entries": {"w": row("weights", [None, 6, None]),
                                       "a": row("untuned", [None, None, None])}},
    ]
    found = contest.comparisons(tasks, "w")
    steps = [one for one in found if one["measure"] == "steps"]
    assert [(one["task"], one["other"], one["ratio"], one["behind"]) for one in steps] == [
        ("lost", "a", None, True), ("behind", "b", 2.0, True), ("even", "a", 1.0, False)]
    (accuracy,) = [one for one in found if one["measure"] == "accuracies"]
    assert accuracy["ratio"] == pytest.approx(2) and accuracy["behind"]
    assert found[0]["task"] == "lost"


def test_beside_each_is_a_mean_over_tasks_that_both_finish():
    tasks = [{"name": str(i), "entries": {
        "w": row("weights", [ours] * 3, losses=[loss] * 3),
        "a": row("untuned", [theirs] * 3, losses=[2.0] * 3)}}
        for i, (ours, theirs, loss) in enumerate([
            (4, 2, 1.0), (16, 2, 4.0), (None, 3, 1.0), (5, None, 4.0), (None, None, None)])]
    (found,) = contest.beside_each(tasks, "w")
    assert found["other"] == "a" and (found["alone"], found["other_alone"]) == (1, 1)
    assert found["tasks"] == {"steps": 2, "seconds": 0, "losses": 4}
    assert found["ratios"]["steps"] == pytest.approx(4)
    assert found["ratios"]["losses"] == pytest.approx(1)
    assert found["ratios"]["seconds"] is None


def test_an_optimizer_that_never_finishes_sets_no_target():
    class Task:
        name, group, steps, seeds, shapes = "t", "g", 100, 3, ((2,),)

        class store:
            results = staticmethod(lambda runs, title="": list(runs))

        def runs(self, entry, rate, count, tuning=False):
            return [None] * count

        def curves(self, results):
            return contest.Curves(np.array([50, 100]), np.full((len(results), 2), np.inf))

    found = contest.measure(Task(), contest.entries(["rule"]), contest.BUDGETS["small"])
    assert found["target"] is None
    assert all(one["steps"] == [None] * 3 for one in found["entries"].values())
    assert contest.comparisons([found], "rule") == []
    # The first rate of the grid, as none is better.
    at_edge = {name: one["at_edge"] for name, one in found["entries"].items()}
    assert at_edge["muon, cosine"] and not at_edge["muon"] and not at_edge["rule"]


def test_a_step_of_pytorch_by_itself(monkeypatch):
    torch = pytest.importorskip("torch")
    clock, shapes, threads = [0.0], [], []

    class Slow:
        """The first hundred steps take four seconds each, others half a second."""

        def __init__(self, tensors):
            self.tensors, self.count = tensors, 0
            shapes.extend(tuple(tensor.shape) for tensor in tensors)

        def step(self):
            assert all(tensor.grad.shape == tensor.shape for tensor in self.tensors)
            threads.append(torch.get_num_threads())
            clock[0] += 4.0 if self.count < 100 else 0.5
            self.count += 1

    monkeypatch.setattr("pytorch_optimizer.SOAP", lambda tensors, **settings: Slow(tensors))
    monkeypatch.setattr(torch_step.time, "process_time", lambda: clock[0])
    before = torch.get_num_threads()
    step = TorchStep("soap", ((3, 2), (4,)))
    assert step.execute(None)["step_seconds"] == 0.5
    assert shapes == [(3, 2), (4,)] and set(threads) == {1}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("flags, message", [
    (["--budget=huge"], "budget"),
    (["--weights=nobody"], "`weights` must be one of"),
    (["--weights=rule,rule"], "two that take part would be called 'rule'"),
    (["--weights="], "--weights must name at least one"),
    (["--tasks=suite,others"],
     f"--tasks must be of suite, practice, {', '.join(practice.TASKS)}, got 'others'"),
    (["--tasks="], "--tasks must name one"),
    (["--processes=0"], "processes"),
    (["--data_dir=nowhere"], "--data_dir"),
])
def test_what_cannot_be_run_is_refused(flags, message, capsys):
    assert main(["compare", *flags]) == 2
    assert message in capsys.readouterr().err
