"""Scale-out: eight devices, or two processes, give what one device gives."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from tests import quickly
from train import run
from train.config import TrainConfig
from train.devices import Devices

ROOT = Path(__file__).parents[2]


def _config(estimator):
    # Of all kinds the quickest to compile.
    return TrainConfig(
        suite="bowl", network={"kind": "direction"}, estimator=estimator, members=8, models=2,
        families=1, unroll=4, run_range=(4, 12), steps=6)


def _start(out, estimator, devices, *more):
    config = out.with_suffix(".json")
    config.write_text(_config(estimator).to_json())
    command = [sys.executable, "-m", "train", "--config", str(config), "--validate_every", "0",
               "--out", str(out), *more]
    environment = {
        **os.environ, "KERAS_BACKEND": "jax",
        "XLA_FLAGS": f"{quickly.FLAGS} --xla_force_host_platform_device_count={devices}"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def _finish(*processes):
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output.decode()
        # Of JAX, that memory was not given away.
        assert b"donated" not in output


def _same(a, b):
    one, other = (
        safetensors.numpy.load((folder / "last.safetensors").read_bytes()) for folder in (a, b))
    start = {name: np.abs(value).max() for name, value in one.items()}
    assert set(one) == set(other)
    for name in one:
        np.testing.assert_allclose(
            other[name], one[name], rtol=1e-4, atol=1e-5 * (start[name] + 1e-3), err_msg=name)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The folder of a run with an estimator, on one device, once for all tests."""
    folder = tmp_path_factory.mktemp("one")

    def trained(estimator):
        if not (folder / estimator).exists():
            run.run(_config(estimator), folder / estimator, resume=False, until=lambda: False,
                    validate_every=0)
        return folder / estimator

    return trained


def test_eight_devices_give_what_one_gives(tmp_path, one):
    _finish(_start(tmp_path / "eight", "tbptt", 8))
    _same(one("tbptt"), tmp_path / "eight")


def test_members_of_several_devices_give_their_memory_away(tmp_path):
    _finish(_start(tmp_path / "dry", "pes", 2, "--dry_run"))


def test_two_processes_give_what_one_gives(tmp_path, one):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    _finish(*(
        _start(tmp_path / "two", "pes", 1, "--coordinator", address, "--processes", "2",
               "--process", str(process))
        for process in range(2)))
    _same(one("pes"), tmp_path / "two")


def test_members_that_cannot_be_shared_out(monkeypatch):
    monkeypatch.setattr("jax.devices", lambda: [None] * 3)
    with pytest.raises(ValueError, match=r"`members` must be a multiple .* 3, got 4"):
        Devices(TrainConfig(members=4))
