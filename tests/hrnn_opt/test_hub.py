"""Weights on the Hub, against a stand-in for it on this machine; and in folders."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from huggingface_hub import constants

from hrnn_opt import HierarchicalLOpt, Pretrained
from hrnn_opt.files import hub
from hrnn_opt.files import weights as weights_lib
from hrnn_opt.files.resolve import shipped
from tests.hrnn_opt import hub_server
from tests.hrnn_opt.support import apply, assert_equal, gradients, values, variables, weights

ROOT = pathlib.Path(__file__).parents[2]
GOOD = dataclasses.replace(
    weights(lookahead=True, time_scales=2), learning_rate=0.25, initial_learning_rate=(1e-3, 1e-2))
MINE = "somebody/learned"


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A hub, and this process and those that it starts set to it, with an empty cache."""
    with hub_server.running() as running:
        cache = str(tmp_path / "cache")
        for name, value in {
            "HF_ENDPOINT": running.url, "HF_HUB_CACHE": cache, "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "hf_none", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }.items():
            monkeypatch.setenv(name, value)
        # Read from the environment once, at its import.
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE",
            running.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield running


def publish(server, **files) -> None:
    """A commit of a stranger: good files, with these in their place; None for none."""
    whole = {**GOOD.to_files(), **{name.replace("__", "."): file for name, file in files.items()}}
    server.commits.setdefault(MINE, []).append(
        {name: content for name, content in whole.items() if content is not None})


def downloads(server) -> list[str]:
    """The files that were asked for."""
    return [path.rpartition("/")[2] for method, path in server.requests
            if method == "GET" and "/resolve/" in path]


def trained(given) -> list[np.ndarray]:
    moved = variables()
    apply(HierarchicalLOpt(given, seed=0), gradients(2), moved)
    return values(moved)


# Folders, on every backend.

def test_a_network_saved_and_loaded_trains_the_same(tmp_path):
    network = GOOD.network()
    saved = Pretrained.from_network(network, **GOOD.settings())
    for name in ("folder", "file.safetensors"):
        saved.save(tmp_path / name)
        again = Pretrained.load(tmp_path / name)
        assert again.config == network.network_config
        for given in (again, str(tmp_path / name)):
            assert_equal(trained(given), trained(GOOD))
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == [
        "README.md", "config.json", "model.safetensors"]
    # Other settings, if they are asked for.
    Pretrained.from_network(network, learning_rate=0.125).save(tmp_path / "slow")
    assert Pretrained.load(tmp_path / "slow").learning_rate == 0.125


@pytest.mark.jax_only
def test_the_card_says_what_the_weights_are(tmp_path):
    GOOD.save(tmp_path / "w", card="Trained on {bowls}.")
    card = (tmp_path / "w" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: hrnn_opt\n")
    assert card.endswith("\nTrained on {bowls}.\n")
    assert "`time_scales=2`, `lookahead=True`" in card and "| learning rate | 0.25 |" in card


def edited(**parts) -> bytes:
    config = json.loads(GOOD.to_files()["config.json"])
    return json.dumps({**config, **parts}).encode()


@pytest.mark.jax_only
@pytest.mark.parametrize("content, message", [
    (None, "must be a file, got"),
    (b"", "are not usable"),
    (b"\xff\xfe", "are not usable"),
    (b"[" * 60_000, "are not usable"),
    (b"[]", "must be a dict, got list"),
    (b" " * (2**16 + 1), "must be a file of at most 65536 bytes, got 65537"),
    (b'{"model_type": "bert"}', "must have the format 'hrnn_opt.2' or 'hrnn_opt.1', got None"),
    (edited(config={"time_scales": "4"}), "`time_scales` must be"),
    (edited(config=[["time_scales", 4]]), "`config` must be a dict of switches, got list"),
    (edited(settings={"learning_rate": 1}), "the settings must be"),
    (edited(config={**GOOD.config.to_dict(), "time_scales": 4}),
     r"from w/config.json are not those in its model.safetensors"),
    (edited(settings={**GOOD.settings(), "learning_rate": 1.0}),
     r"from w/config.json are not those in its model.safetensors"),
], ids=range(12))
def test_a_folder_with_another_config_is_refused(tmp_path, content, message):
    GOOD.save(tmp_path / "w")
    path = tmp_path / "w" / "config.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="`weights` .*" + message):
        HierarchicalLOpt(tmp_path / "w")


# The Hub.

SESSION = f"""
import keras, numpy as np
from hrnn_opt import HierarchicalLOpt, Pretrained
print(Pretrained.load("w.safetensors").push_to_hub("{MINE}", card="Trained on bowls."))
opt = HierarchicalLOpt(weights="{MINE}")
opt.build([keras.Variable(np.ones(3))])
print(float(opt.meta_parameters["direction_weights"][0]))
"""


@pytest.mark.jax_only
def test_pushed_then_pulled_then_taken_from_the_cache(server, tmp_path, monkeypatch):
    GOOD.save(tmp_path / "w.safetensors")
    # A session of its own, to which the environment alone says where the Hub is.
    session = subprocess.run(
        [sys.executable, "-c", SESSION], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert session.returncode == 0, session.stderr
    address, number = session.stdout.split()
    assert address.startswith(f"{server.url}/{MINE}/commit/")
    assert float(number) == GOOD.arrays["direction_weights"][0]
    assert server.commits[MINE] == [GOOD.to_files("Trained on bowls.")]
    # Then no file is asked for again: the Hub knows of no newer one, is not to be asked, or is
    # not there.
    server.requests.clear()
    assert_equal(trained(MINE), trained(GOOD))
    assert server.requests and not downloads(server)
    asked = len(server.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_equal(trained(MINE), trained(GOOD))
    with pytest.raises(ValueError, match="could not be had"):
        HierarchicalLOpt("somebody/else")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE",
        "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}")
    assert_equal(trained(MINE), trained(GOOD))
    assert len(server.requests) == asked


@pytest.mark.jax_only
def test_all_files_are_of_one_commit(server, monkeypatch):
    publish(server)
    other, download = dataclasses.replace(GOOD, learning_rate=0.5), hub.download

    def then_somebody_pushes(*arguments):
        path = download(*arguments)
        publish(server, **{name.replace(".", "__"): f for name, f in other.to_files().items()})
        return path

    monkeypatch.setattr(hub, "download", then_somebody_pushes)
    assert Pretrained.from_pretrained(MINE).learning_rate == 0.25


@pytest.mark.jax_only
def test_a_revision_is_a_commit(server):
    publish(server)
    other = dataclasses.replace(GOOD, learning_rate=0.5)
    publish(server, **{name.replace(".", "__"): f for name, f in other.to_files().items()})
    first, second = (hub_server.commit_name(MINE, number) for number in range(2))
    assert Pretrained.from_pretrained(MINE).learning_rate == 0.5
    assert Pretrained.from_pretrained(f"{MINE}@{first}").learning_rate == 0.25
    assert Pretrained.from_pretrained(f"{MINE}@{second}").learning_rate == 0.5
    # What is pushed once more is another commit.
    GOOD.push_to_hub(MINE)
    assert len(server.commits[MINE]) == 3
    assert_equal(trained(MINE), trained(GOOD))


@pytest.mark.jax_only
@pytest.mark.parametrize("files, message, downloaded", [
    (dict(config__json=b'{"model_type": "bert"}'), "must have the format 'hrnn_opt.2'",
     ["config.json"]),
    (dict(config__json=None), "'config.json' of 'somebody/learned' could not be had", []),
    (dict(config__json=b"x" * 100_000), "must have at most 65536 bytes, got 100000", []),
    (dict(model__safetensors=None), "'model.safetensors' .*could not be had", ["config.json"]),
    (dict(model__safetensors=b"x" * 5000), "must have at most 4096 bytes, got 5000",
     ["config.json"]),
    (dict(model__safetensors=b"PK" + bytes(99)), "not a safetensors file",
     ["config.json", "model.safetensors"]),
], ids=range(6))
def test_strangers_files_are_refused_before_they_are_downloaded(
        server, monkeypatch, files, message, downloaded):
    monkeypatch.setattr(weights_lib, "LARGEST_FILE", 4096)
    publish(server, **files)
    with pytest.raises(ValueError, match=message) as raised:
        HierarchicalLOpt(MINE)
    assert str(raised.value).startswith("`weights` must be one of")
    assert downloads(server) == downloaded


@pytest.mark.jax_only
def test_what_is_not_there_is_one_clear_error(server, tmp_path, monkeypatch):
    # Beside a folder of its own there is nothing that a relative name could mean.
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    names = re.escape(str(sorted([*shipped(), "untrained"])))
    with pytest.raises(ValueError, match=rf"`weights` must be one of {names}.* "
                       r"got 'no/body'\. 'config.json' of 'no/body' could not be had.*Repository"):
        HierarchicalLOpt("no/body")
    publish(server)
    with pytest.raises(ValueError, match="Revision"):
        HierarchicalLOpt(f"{MINE}@v9")
    asked = len(server.requests)
    for path in ("runs/best.safetensors", "a/b/c", "../w", "/w", "w", "a/b@", "a b/c"):
        with pytest.raises(ValueError, match="`weights` must be one of"):
            HierarchicalLOpt(path)
    assert len(server.requests) == asked


@pytest.mark.jax_only
def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        HierarchicalLOpt(MINE)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        hub.upload(MINE, {})
