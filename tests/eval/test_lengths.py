"""The lengths of runs and truncations have the specified distribution, with its tail."""

import json

import jax
import matplotlib.image
import numpy as np
import pytest

from eval.__main__ import main
from eval.commands import lengths
from train.config import TrainConfig
from train.lengths import horizons

DRAWS = 100_000


def agree(shares, expected, relative=0.0):
    """Shares of `DRAWS` independent draws are the expected ones, to 5 standard deviations."""
    expected = np.asarray(expected)
    allowed = 5 * np.sqrt(expected * (1 - expected) / DRAWS) + relative * expected
    assert np.all(np.abs(shares - expected) < allowed), (shares, expected, allowed)
    # Where the tail is told from none.
    assert np.all(allowed < expected)


def above(sample, bounds):
    return np.mean(np.asarray(sample)[:, None] > bounds, axis=0)


@pytest.mark.parametrize("unroll", [10, 50])
def test_truncations_have_the_specified_length(unroll):
    config = TrainConfig(heavy_tailed=True, run_length="exponential", unroll=unroll)
    steps = lengths.drawn(config, DRAWS).truncation_steps
    assert np.all(steps % unroll == 0) and steps.min() >= 50
    # 200 times the exponential distribution's quantities, up to where 1 in 1000 is.
    bounds = unroll * np.round(np.array([100, 250, 450, 850, 1250, 1450]) / unroll)
    # A length is rounded to either multiple beside it: on average to those within half of one.
    agree(above(steps, bounds), np.exp(-(bounds + unroll / 2 - 50) / 200), relative=0.003)
    assert steps.mean() == pytest.approx(250, rel=0.01)


@pytest.mark.parametrize("heavy_tailed", [False, True])
def test_runs_have_the_specified_number_of_truncations(heavy_tailed):
    config = TrainConfig(heavy_tailed=heavy_tailed, run_length="exponential", run_scale=40.0)
    truncations = lengths.drawn(config, DRAWS).truncations
    assert truncations.min() == 1
    bounds = np.array([1, 10, 40, 80, 160, 240, 280])
    agree(above(truncations, bounds), np.exp(-(bounds - 0.5) / 40),
          relative=0.06 if heavy_tailed else 0.0)
    assert truncations.mean() == pytest.approx(41.0, rel=0.02)


def test_runs_have_the_specified_length():
    config = TrainConfig(heavy_tailed=True, run_length="exponential")
    steps = lengths.drawn(config, DRAWS).run_steps
    expected = lengths.specified(4 * DRAWS).run_steps
    bounds = np.array([1000, 3000, 10_000, 20_000, 40_000, 60_000, 70_000])
    agree(above(steps, bounds), above(expected, bounds), relative=0.06)
    assert expected.mean() == pytest.approx(41 * 250, rel=0.01)
    assert steps.mean() == pytest.approx(41 * 250, rel=0.02)


def test_log_uniform_runs_and_first_parts():
    config = TrainConfig(models=DRAWS, unroll=1)
    whole = np.asarray(horizons(jax.random.key(0), config))
    assert 200 <= whole.min() < 202 and 4950 < whole.max() <= 5000
    bounds = np.array([400, 1000, 2500, 4000])
    agree(above(whole, bounds), np.log(5000 / bounds) / np.log(25))
    part = np.asarray(horizons(jax.random.key(0), config, first=True)) / whole
    agree(above(part, [0.1, 0.5, 0.9]), [0.9, 0.5, 0.1], relative=0.01)
    assert part.min() > 0 and part.max() <= 1


def test_the_command(tmp_path, capsys):
    path = tmp_path / "new" / "lengths.png"
    assert main(["lengths", f"--out={path}", "--draws=2000", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["truncation_steps"]["drawn"]["mean"] == pytest.approx(250, rel=0.1)
    assert matplotlib.image.imread(path).std() > 0.05
    assert main(["lengths", f"--out={path}", "--draws=200"]) == 0
    assert str(path) in capsys.readouterr().out
    assert main(["lengths", "--draws=1"]) == 2
    assert "--draws" in capsys.readouterr().err.replace("flag ", "--")
