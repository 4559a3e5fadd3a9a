"""Checkpoints: atomic, checked, and a killed run that ends in the same numbers."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import quickly
from train import checkpoints
from train.config import TrainConfig

ROOT = Path(__file__).parents[2]
CONFIG = TrainConfig(suite="bowl")
TREE = {"a": np.arange(6.0, dtype=np.float32).reshape(2, 3), "b": [np.int32(4), np.ones((), bool)]}


def _like(names):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), TREE)


def _equal(tree):
    jax.tree.map(np.testing.assert_array_equal, tree, TREE)


def test_round_trip_and_only_the_last_few_stay(tmp_path):
    for step in range(5):
        checkpoints.save(tmp_path, step, TREE, CONFIG, keep=2)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "checkpoint-00000003.safetensors", "checkpoint-00000004.safetensors"]
    _equal(checkpoints.restore(tmp_path, _like, CONFIG))


def test_no_checkpoint(tmp_path):
    assert checkpoints.restore(tmp_path, _like, CONFIG) is None


@pytest.mark.parametrize("damage", ["truncated", "flipped header", "empty", "other arrays"])
def test_a_damaged_newest_falls_back_to_the_one_before(tmp_path, damage):
    checkpoints.save(tmp_path, 1, TREE, CONFIG)
    newest = checkpoints.save(
        tmp_path, 2, {"a": TREE["a"]} if damage == "other arrays" else TREE, CONFIG)
    content = bytearray(newest.read_bytes())
    if damage == "truncated":
        content = content[:-5]
    elif damage == "flipped header":
        content[20] ^= 0xFF
    elif damage == "empty":
        content = bytearray()
    newest.write_bytes(content)
    with pytest.warns(UserWarning, match="checkpoint-00000002.safetensors is damaged"):
        _equal(checkpoints.restore(tmp_path, _like, CONFIG))


def test_flipped_numbers_are_noticed(tmp_path):
    checkpoints.save(tmp_path, 1, TREE, CONFIG)
    newest = checkpoints.save(tmp_path, 2, jax.tree.map(lambda leaf: leaf + leaf, TREE), CONFIG)
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged"):
        _equal(checkpoints.restore(tmp_path, _like, CONFIG))


def test_another_configuration_is_refused_by_name(tmp_path):
    checkpoints.save(tmp_path, 1, TREE, CONFIG)
    other = dataclasses.replace(CONFIG, unroll=100)
    with pytest.raises(ValueError, match="`unroll` is 50 there and 100 here"):
        checkpoints.restore(tmp_path, _like, other)


def _command(out, cache, *more):
    # Of all kinds the quickest to compile.
    network = json.dumps({"kind": "direction"})
    command = [
        sys.executable, "-m", "train", "--suite", "bowl", "--network", network,
        "--estimator", "pes", "--members", "2", "--models", "1", "--families", "1", "--unroll", "4",
        "--run_range", "4,12", "--steps", "40", "--validate_every", "0",
        "--checkpoint_minutes", "0.0001", "--out", str(out), *more]
    environment = {
        **os.environ, "KERAS_BACKEND": "jax", "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": quickly.FLAGS}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_killed_at_any_moment_it_ends_in_the_same_numbers(tmp_path):
    whole = _command(tmp_path / "whole", tmp_path / "cache")
    output, _ = whole.communicate(timeout=600)
    assert whole.returncode == 0, output.decode()

    broken, rng, kills = tmp_path / "broken", random.Random(0), 0
    while True:
        log = broken / "log.jsonl"
        before = len(log.read_text().splitlines()) if log.exists() else 0
        process = _command(broken, tmp_path / "cache", *(["--resume"] if before else []))
        target = before + rng.randint(2, 6)
        while process.poll() is None:
            if kills < 2 and log.exists() and len(log.read_text().splitlines()) >= target:
                time.sleep(rng.random() * 0.05)
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.01)
        output, _ = process.communicate(timeout=600)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, output.decode()
    assert kills == 2
    assert (tmp_path / "whole/last.safetensors").read_bytes() == (
        broken / "last.safetensors").read_bytes()
    steps = [json.loads(line)["step"] for line in (broken / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 41))


def test_restored_arrays_are_copies(tmp_path):
    checkpoints.save(tmp_path, 1, TREE, CONFIG)
    tree = checkpoints.restore(tmp_path, _like, CONFIG)
    assert all(isinstance(leaf, jnp.ndarray) for leaf in jax.tree.leaves(tree))
