import dataclasses
import hashlib
import json
import os
import struct

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from hrnn_opt import (
    HierarchicalLOpt,
    HierarchicalRNN,
    HierarchicalRNNConfig,
    NetworkConfig,
    Pretrained,
)
from hrnn_opt.files import resolve as resolve_lib
from hrnn_opt.files import weights as weights_lib
from tests.hrnn_opt.support import apply, assert_equal, gradients, values, variables, weights

GOOD = weights(lookahead=True, time_scales=2)


def content(pretrained=GOOD, arrays=None, **metadata) -> bytes:
    """A weights file with parts of it replaced."""
    header, _ = weights_lib.split(pretrained.to_bytes())
    return safetensors.numpy.save(
        pretrained.arrays if arrays is None else arrays,
        metadata={**header["__metadata__"], **metadata})


def test_round_trip_through_a_file(tmp_path):
    first = dataclasses.replace(GOOD, initial_learning_rate=(1e-4, 1e-2), learning_rate=0.5)
    first.save(tmp_path / "w.safetensors")
    second = Pretrained.load(tmp_path / "w.safetensors")
    assert second.config == first.config
    assert second.initial_learning_rate == (1e-4, 1e-2) and second.learning_rate == 0.5
    assert set(second.arrays) == set(first.arrays)
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(second.arrays[name], array)
        assert second.arrays[name].dtype == np.float32
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("name", resolve_lib.shipped())
def test_cards_of_shipped_weights_have_their_checksum(name):
    path = resolve_lib.PRETRAINED_DIR / f"{name}.safetensors"
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    assert checksum in path.with_suffix(".md").read_text()


def test_a_path_a_network_and_the_weights_themselves_train_the_same(tmp_path):
    GOOD.save(tmp_path / "w.safetensors")
    results = []
    for given_as in (GOOD, str(tmp_path / "w.safetensors"), tmp_path / "w.safetensors",
                     GOOD.network()):
        moved = variables()
        apply(HierarchicalLOpt(given_as), gradients(2), moved)
        results.append(values(moved))
    for result in results[1:]:
        assert_equal(result, results[0])


def test_what_the_weights_want_is_followed_unless_the_caller_says_otherwise(tmp_path):
    wants = dataclasses.replace(GOOD, initial_learning_rate=0.02, learning_rate=0.25)
    wants.save(tmp_path / "w.safetensors")
    opt = HierarchicalLOpt(tmp_path / "w.safetensors")
    opt.build(variables())
    assert opt.lookahead
    assert float(ops.convert_to_numpy(opt.learning_rate)) == 0.25
    np.testing.assert_allclose(
        ops.convert_to_numpy(opt.per_variable(opt.state()["log_learning_rate"])[0]), np.log(0.02),
        rtol=1e-6)
    other = HierarchicalLOpt(
        tmp_path / "w.safetensors", learning_rate=1.0, lookahead=False,
        initial_learning_rate=1e-3)
    assert not other.lookahead
    assert float(ops.convert_to_numpy(other.learning_rate)) == 1.0


def test_the_same_weights_are_the_same_bytes():
    assert len({GOOD.to_bytes() for _ in range(8)}) == 1


def test_a_failed_save_leaves_the_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    GOOD.save(path)
    before = path.read_bytes()

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="disk full"):
        weights(seed=3).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_without_lookahead_drops_only_that():
    plain = GOOD.without_lookahead()
    assert not plain.config.core.lookahead and dataclasses.replace(
        plain.config.core, lookahead=True) == GOOD.config.core
    assert set(GOOD.arrays) - set(plain.arrays) == {"attention_weights", "attention_shortcut"}
    assert plain.without_lookahead() is plain


def test_untrained_weights_are_those_of_their_seed():
    first, again, other = (
        resolve_lib.resolve("untrained", seed=seed).arrays["direction_weights"]
        for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@given(st.integers(0, len(GOOD.to_bytes()) - 1))
@settings(max_examples=15)
def test_a_truncated_file_is_refused(length):
    with pytest.raises(ValueError, match="`weights` from w are not a safetensors file"):
        Pretrained.from_bytes(GOOD.to_bytes()[:length], "w")


@given(st.integers(0, 8 * len(GOOD.to_bytes()) - 1))
@settings(max_examples=60)
def test_a_flipped_bit_gives_one_clear_error_or_other_numbers(bit):
    damaged = bytearray(GOOD.to_bytes())
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        loaded = Pretrained.from_bytes(bytes(damaged), "w")
    except ValueError as error:
        assert str(error).startswith("`weights` from w ")
    else:
        assert all(np.all(np.isfinite(array)) for array in loaded.arrays.values())


def replaced(**arrays):
    return {name: a for name, a in {**GOOD.arrays, **arrays}.items() if a is not None}


@pytest.mark.parametrize("bad, message", [
    (b"", "are not a safetensors file"),
    (b"PK" + bytes(100), "not an .npz file without pickles"),
    (safetensors.numpy.save({"a": np.zeros(2)}), "must be those of a learned optimizer that is"),
    (content(format="hrnn_opt.9"), "or 'hrnn_opt.1', got 'hrnn_opt.9'"),
    (safetensors.numpy.save(GOOD.arrays, {"format": "hrnn_opt.1"}), "lack the metadata 'config'"),
    (content(config="{"), "are not usable"),
    (content(config="[" * 100_000), "are not usable"),
    (content(config=json.dumps({"time_scales": 99})), "`time_scales` must be from 1 to 8, got 99"),
    (content(config=json.dumps(HierarchicalRNNConfig().to_dict())),
     r"'attention_shortcut', 'attention_weights'\] are missing or unknown"),
    (content(settings="{}"), "the settings must be"),
    (content(settings='{"initial_learning_rate": -1, "learning_rate": 1}'),
     "`initial_learning_rate` must be a positive number.*got -1"),
    (content(settings='{"initial_learning_rate": 0.1, "learning_rate": NaN}'),
     "`learning_rate` must be a number of at least 0, got nan"),
    (content(arrays=replaced(direction_weights=None)),
     r"\['direction_weights'\] are missing or unknown"),
    (content(arrays=replaced(speed=np.zeros(2, "float32"))),
     r"\['speed'\] are missing or unknown"),
    (content(arrays=replaced(direction_weights=np.zeros(11, "float32"))),
     r"'direction_weights' must be float32 of shape \(10,\), got float32 of shape \(11,\)"),
    (content(arrays=replaced(direction_weights=np.zeros(10, "float64"))),
     r"'direction_weights' must be float32 of shape \(10,\), got float64"),
    (content(arrays=replaced(direction_weights=np.full(10, np.nan, "float32"))),
     "'direction_weights' must hold finite numbers only"),
], ids=range(17))
def test_what_is_no_weights_file_is_refused(bad, message, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(bad)
    with pytest.raises(ValueError, match=r"`weights` from w\.safetensors .*" + message):
        HierarchicalLOpt(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "w.safetensors"
    with path.open("wb") as file:
        file.truncate(weights_lib.LARGEST_FILE + 1)
    with pytest.raises(ValueError, match=r"`weights` must be a file of at most \d+ bytes, got \d+"):
        Pretrained.load(path)


def test_a_header_that_claims_to_be_huge_is_refused():
    with pytest.raises(ValueError, match="are not a safetensors file"):
        Pretrained.from_bytes(struct.pack("<Q", 2**63) + bytes(64), "w")


def test_a_folder_or_nothing_is_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "none.safetensors"):
        with pytest.raises(ValueError, match="`weights` must be a file, got"):
            Pretrained.load(path)
        with pytest.raises(ValueError, match=r"`weights` must be (one of|a file)"):
            HierarchicalLOpt(path)


def test_weights_of_another_config_are_refused():
    with pytest.raises(ValueError, match="`arrays` must be those of their config"):
        Pretrained(NetworkConfig(HierarchicalRNNConfig()), GOOD.arrays)
    with pytest.raises(ValueError, match="`arrays`: 'global_rnn/gates_kernel' must be float32 of"):
        Pretrained(NetworkConfig(HierarchicalRNNConfig()), weights(global_units=5).arrays)
    with pytest.raises(ValueError, match="`learning_rate` must be"):
        Pretrained.from_network(HierarchicalRNN(), learning_rate=-1)


def test_weights_that_are_still_to_get_their_numbers_cannot_be_written(tmp_path):
    """As an optimizer has them whose weights are gone, before its saved variables are loaded."""
    empty = Pretrained(weights().config, None, name="gone")
    for write in (empty.to_bytes, empty.to_files, lambda: empty.save(tmp_path / "w.safetensors")):
        with pytest.raises(ValueError, match="`arrays` must be there where weights are written"):
            write()
    assert not list(tmp_path.iterdir())
