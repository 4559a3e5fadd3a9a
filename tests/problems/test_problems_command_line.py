"""`python -m problems`."""

import json
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("jax")

import matplotlib.image

import problems

ROOT = pathlib.Path(__file__).parents[2]


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "problems", *arguments], cwd=ROOT, capture_output=True, text=True
    )


def test_list():
    result = run("list", "bowl")
    assert result.returncode == 0, result.stderr
    for problem in problems.suite("bowl"):
        assert repr(problem) in result.stdout
    assert "4 specs, 1 programs" in result.stdout


def test_list_json_is_json_alone():
    rows = json.loads(run("list", "quadratic_noisy", "--json").stdout)
    assert [problems.parse(row["spec"]) for row in rows] == problems.suite("quadratic_noisy")
    assert [problems.from_json(row["fields"]) for row in rows] == problems.suite("quadratic_noisy")
    assert rows[0]["tensors"] == [[20, 1]]
    assert rows[0]["parameters"] == 20


def test_show_writes_a_picture(tmp_path):
    path = tmp_path / "bowl.png"
    result = run("show", "Bowl(5.0, angle=0.7)", "--output", str(path), "--steps", "20")
    assert result.returncode == 0, result.stderr
    assert matplotlib.image.imread(path).std() > 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("list", "nope"), "unknown name 'nope'"),
        (("show", "Quadratic(3)"), "3 parameters; a picture needs 2"),
        (("show", "Bowl(0)"), "condition must be positive"),
        ((), "expected"),
    ],
)
def test_errors_are_one_line_without_traceback(arguments, message):
    result = run(*arguments)
    assert result.returncode == 1
    assert message in result.stdout + result.stderr
    assert "Traceback" not in result.stderr
