"""`python -m train` on a problem of one's own, as docs/train_your_own.md has it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hrnn_opt import Pretrained
from tests import quickly
from train.config import TrainConfig

ROOT = Path(__file__).parents[2]
# Of all kinds the quickest to compile.
SMALL = json.dumps({"kind": "direction"})


def _train(folder, *arguments, without=()):
    """Without some variables of the tests' environment."""
    environment = {
        **os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}",
        "XLA_FLAGS": quickly.FLAGS}
    for name in without:
        del environment[name]
    return subprocess.run(
        [sys.executable, "-m", "train", *arguments], cwd=folder, env=environment, text=True,
        capture_output=True, timeout=400)


def test_on_a_problem_of_ones_own(tmp_path):
    page = (ROOT / "docs/train_your_own.md").read_text()
    example = re.search(r"```python\n(import dataclasses, jax.*?)```", page, re.DOTALL).group(1)
    (tmp_path / "valleys.py").write_text(example)
    done = _train(
        tmp_path, "--modules", "valleys", "--suite", "valleys", "--network", SMALL, "--members",
        "1", "--models", "2", "--families", "1", "--unroll", "4", "--run_range", "4,12", "--steps",
        "3", "--validate_every", "0", "--out", "runs/mine",
        # As users start it: with large pages.
        without=["GLIBC_TUNABLES"])
    assert done.returncode == 0, done.stderr
    out = tmp_path / "runs/mine"
    assert Pretrained.load(out / "last.safetensors").config.kind == "direction"
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all("Valley" in name for line in lines for name in line["losses"])
    assert json.loads((out / "config.json").read_text())["suite"] == "valleys"
    assert list(out.glob("events.out.tfevents.*"))


def test_a_dry_run_compiles_what_training_runs(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(cache))
    arguments = ("--suite", "bowl", "--network", SMALL, "--members", "2", "--models", "2",
                 "--unroll", "4", "--run_range", "4,4", "--steps", "2", "--validate_every", "0",
                 "--out", "runs/mine")

    def programs():
        return {path.name for path in cache.iterdir() if re.match(
            "jit__(drawn|begun|renewed|ended|pulled_back)-", path.name)}

    assert _train(tmp_path, *arguments, "--dry_run").returncode == 0
    compiled = programs()
    assert len({name.split("-")[0] for name in compiled}) == 5
    done = _train(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert programs() == compiled


BAD = [
    (["--suite", "nowhere"], "unknown name 'nowhere'"),
    (["--suite", "bowl*-1"], "`suite` must weight 'bowl' by a positive number, got '-1'"),
    (["--estimator", "guess"], "`estimator` must be one of .*, got 'guess'"),
    (["--unroll", "7", "--objective_every", "2"], "`unroll` must be a multiple of"),
    (["--trainable", "("], r"`trainable` must be a regular expression, got '\('"),
    (["--units", '{"(": 2}'], r"`units` must be a regular expression, got '\('"),
    (["--units", '{"gates": -1}'], "`units` must be positive numbers by regular expressions, got"),
    (["--units", "[3]"], r"`units` must be a dict, got \(3,\)"),
    (["--trainable", "gates"], "`trainable` must match one of .*, got 'gates'"),
    (["--run_range", "9,3"], "`run_range` must be a .*range"),
    (["--learning_rate", "fast"], "`learning_rate` must be LOW,HIGH, got 'fast'"),
    (["--network", '{"time_scales": 99}'], "`time_scales` must be from 1 to 8, got 99"),
    (["somewhere"], "unknown argument 'somewhere'"),
    (["--config", "held/config.json", "--out", "held"], "`out` must hold no run yet"),
]
# One process for all of them, since starting one takes seconds.
EACH = """
import contextlib, io, json, sys
from absl import flags
import train.__main__ as program

program._define_config_flags()
found = []
for arguments in json.loads(sys.argv[1]):
    flags.FLAGS.unparse_flags()
    with contextlib.redirect_stderr(io.StringIO()) as said:
        code = program.main(flags.FLAGS(["train", *arguments]))
    found.append([code, said.getvalue()])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refused")
    (folder / "held").mkdir()
    (folder / "held/config.json").write_text(TrainConfig(suite="bowl").to_json())
    done = subprocess.run(
        [sys.executable, "-c", EACH, json.dumps([arguments for arguments, _ in BAD])], cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, capture_output=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_flags_give_one_error(refused, case):
    folder, found = refused
    code, said = found[case]
    lines = [line for line in said.splitlines() if line.startswith("python -m train:")]
    assert code == 2 and len(lines) == 1 and re.search(BAD[case][1], lines[0]), said
    assert not list(folder.glob("runs/**/config.json"))
