import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eval.__main__ import COMMANDS, main
from eval.commands import robustness

ON_JAX = os.environ.get("KERAS_BACKEND") == "jax"


def fails(capsys, *arguments):
    code = main(list(arguments))
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    return printed.err


def test_the_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"    {name} " in text for name in COMMANDS)
    assert main([]) == 2


@pytest.mark.parametrize(
    "command", ["mnist", "tune", "table", "robustness", "curve", "lengths", "quickstart",
                "figure", "report", "pack", "compare", "ablate"])
def test_each_command_has_help(capsys, command):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"flags of python -m eval {command}:" in text
    assert "--json" in text
    assert "flagfile" not in text


def test_what_cannot_be_used_gives_one_clear_error(capsys, data_dir, tmp_path):
    data = f"--data_dir={data_dir}"
    mlp = "--network=mlp_relu"
    assert "no command 'train'" in fails(capsys, "train")
    assert "unknown" in fails(capsys, "mnist", "--learning_rte=1").lower()
    assert "--network" in fails(capsys, "mnist", data)
    assert "--data_dir" in fails(capsys, "mnist", mlp)
    assert "resnet" in fails(capsys, "mnist", data, "--network=resnet")
    assert "steps" in fails(capsys, "mnist", data, mlp, "--steps=0")
    assert "unexpected argument 'mlp_relu'" in fails(capsys, "mnist", data, mlp, "mlp_relu")
    assert "cosine" in fails(capsys, "mnist", data, mlp, "--optimizer=adam", "--schedule=cosine")
    assert "--weights" in fails(capsys, "mnist", data, mlp, "--optimizer=adam", "--weights=paper")
    assert "'nowhere'" in fails(capsys, "mnist", data, mlp, "--weights=nowhere")
    assert "missing" in fails(capsys, "mnist", mlp, "--optimizer=adam", f"--data_dir={tmp_path}")
    assert "1200" in fails(capsys, "mnist", data, mlp, "--optimizer=adam", "--batch_size=1201")
    assert "no 'lion'" in fails(capsys, "tune", data, "--optimizers=adam,lion")
    assert "--seeds" in fails(capsys, "tune", data, "--seeds=0,x")
    assert "--learning_rates" in fails(capsys, "tune", data, "--learning_rates=-1")
    assert "--steps" in fails(capsys, "table", data, "--steps=0", "--weights=untrained")
    assert "'nowhere'" in fails(capsys, "robustness", data, "--weights=nowhere")


def test_the_program_exits_with_the_code():
    process = subprocess.run([sys.executable, "-m", "eval", "nothing"], capture_output=True,
                             text=True, cwd=Path(__file__).parents[2])
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1


@pytest.mark.skipif(not ON_JAX, reason="needs the JAX backend")
def test_mnist_prints_json_alone(capsys, data_dir, tmp_path):
    out = tmp_path / "result.json"
    assert main(["mnist", "--network=mlp_sigmoid", "--optimizer=hrnn", "--weights=untrained",
                 "--initial_learning_rate=0.003", "--state_dtype=bfloat16", "--steps=60",
                 f"--data_dir={data_dir}",
                 f"--out={out}", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert json.loads(out.read_text()) == result
    assert [step for step, _ in result["curve"]] == [50, 60]
    assert result["final_training_loss"] == result["curve"][-1][1] < 2.3
    assert (result["initial_learning_rate"], result["learning_rate"]) == (0.003, None)
    assert result["state_dtype"] == "bfloat16"
    assert not result["diverged"]


def test_tune_and_table_from_the_command_line(capsys, fake_runs, data_dir, tmp_path):
    common = [f"--data_dir={data_dir}", f"--store={tmp_path / 'store'}", "--networks=mlp_relu",
              "--steps=100", "--json"]
    baselines = tmp_path / "baselines"
    assert main(["tune", *common, "--optimizers=adam,sgd", f"--save={baselines}"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [(r["optimizer"], r["schedule"], r["learning_rate"]) for r in records] == [
        ("adam", "constant", 0.01), ("adam", "cosine", 0.01),
        ("sgd", "constant", 0.01), ("sgd", "cosine", 0.01)]
    fake_runs.runs.clear()
    assert main(["table", *common, "--weights=untrained", f"--baselines={baselines}",
                 f"--out={tmp_path}"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["learned"]["untrained"]["ratio"] == pytest.approx(2)
    assert {run.optimizer for run in fake_runs.runs} == {"rmsprop", "hrnn"}
    assert json.loads((tmp_path / "table.json").read_text()) == [row]
    assert (tmp_path / "table.md").read_text().startswith("| network |")


def test_robustness_passes_runs_that_go_on_learning():
    fine = {"diverged": False, "final_training_loss": 0.1, "curve": [[200, 0.3], [300, 0.1]]}
    worse = {"diverged": False, "final_training_loss": 0.4, "curve": [[200, 0.3], [300, 0.4]]}
    gone = {"diverged": True, "final_training_loss": None, "curve": [[200, 0.3]]}
    assert [robustness.passed(result) for result in (fine, worse, gone)] == [True, False, False]


def test_robustness_varies_the_rate_that_the_weights_have(tmp_path):
    from hrnn_opt import HierarchicalRNN, HierarchicalRNNConfig, Pretrained
    from hrnn_opt.files.resolve import resolve

    assert robustness.rate_settings(resolve("untrained"), None) == [
        {"initial_learning_rate": rate} for rate in (1e-5, 1e-4, 1e-3, 1e-2)]
    path = tmp_path / "raw.safetensors"
    network = HierarchicalRNN(HierarchicalRNNConfig(unit_direction=False), seed=0)
    Pretrained.from_network(network, learning_rate=0.003).save(path)
    assert robustness.rate_settings(resolve(path), [1.0, 10.0]) == [
        {"learning_rate": 0.003}, {"learning_rate": pytest.approx(0.03)}]


@pytest.mark.parametrize("weights, rates", [("default", "1,3"), ("paper", "0.01,0.001")])
def test_robustness_shares_runs_at_the_weights_own_rate_with_the_table(
        weights, rates, capsys, fake_runs, data_dir, tmp_path):
    assert main(["robustness", f"--weights={weights}", "--networks=mlp_relu", "--steps=400",
                 "--seeds=0", f"--rates={rates}", f"--data_dir={data_dir}",
                 f"--store={tmp_path}", "--json"]) == 0
    given = [run.learning_rate or run.initial_learning_rate for run in fake_runs.runs]
    assert given[0] is None and given[1] is not None


def test_robustness_exits_with_1_when_a_run_fails(capsys, fake_runs, data_dir, tmp_path):
    arguments = ["robustness", "--weights=untrained", "--networks=mlp_relu", "--steps=400",
                 "--seeds=0", "--rates=0.001,0.01", f"--data_dir={data_dir}",
                 f"--store={tmp_path}", "--json"]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] and len(report["runs"]) == 2
    for file in tmp_path.glob("*-0.01-*.json"):
        result = json.loads(file.read_text())
        file.write_text(json.dumps({**result, "final_training_loss": 99.0}))
    assert main(arguments) == 1
    report = json.loads(capsys.readouterr().out)
    assert [run["passed"] for run in report["runs"]] == [True, False]
