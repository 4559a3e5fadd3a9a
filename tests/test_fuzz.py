"""Every reader of files, given damaged ones: one clear error, or what was written, and no more."""

import gzip
import json
import struct
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import problems
from eval.commands import dynamics
from eval.runs.run import Run
from eval.runs.store import Store
from hrnn_opt import HierarchicalRNN, HierarchicalRNNConfig, Pretrained
from hrnn_opt.files.atomic import read_npz
from hrnn_opt.training.events import EventWriter
from tests.problems.helpers import write_mnist
from train import checkpoints
from train.config import TrainConfig

SMALL = Pretrained.from_network(HierarchicalRNN(HierarchicalRNNConfig(
    parameter_units=2, tensor_units=0, global_units=0, time_scales=2)))
TREE = {"a": np.arange(6, dtype="float32"), "b": np.ones((), "int32")}
TRAINING = TrainConfig(suite="bowl")


class Weights:
    """A weights file; any finite numbers are good."""

    error = "^`weights` "

    def write(self, folder):
        SMALL.save(folder / "w.safetensors")
        return folder / "w.safetensors"

    def read(self, path):
        loaded = Pretrained.load(path)
        assert all(np.isfinite(array).all() for array in loaded.arrays.values())


class Config(Weights):
    """The JSON beside weights: to change it and be taken, it must say the same."""

    def write(self, folder):
        SMALL.save(folder / "w")
        return folder / "w" / "config.json"

    def read(self, path):
        loaded = Pretrained.load(path.parent)
        assert (loaded.config, loaded.settings()) == (SMALL.config, SMALL.settings())


class Npz:
    """Arrays in an archive, with a checksum each."""

    error = "^not an .npz file without pickles"

    def write(self, folder):
        np.savez_compressed(folder / "a.npz", **TREE)
        return folder / "a.npz"

    def read(self, path):
        read_npz(path, 10_000)


class Images:
    """MNIST's format, gzipped."""

    error = "train-images-idx3-ubyte"

    def write(self, folder):
        write_mnist(folder, train=2, test=1, suffix=".gz")
        return folder / "train-images-idx3-ubyte.gz"

    def read(self, path):
        assert problems.load_mnist(path.parent)[0].shape == (2, 28, 28, 1)


class PlainImages(Images):
    """The same, not compressed: any pixels are good."""

    def write(self, folder):
        write_mnist(folder, train=2, test=1)
        return folder / "train-images-idx3-ubyte"


class Checkpoint:
    """A checkpoint of meta-training: damaged ones are passed over, others' refused by name."""

    error = "is of another configuration|the training config|^`[a-z_]+` must be"

    def write(self, folder):
        return checkpoints.save(folder, 1, TREE, TRAINING)

    def read(self, path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = checkpoints.restore(path.parent, lambda names: TREE, TRAINING)
        if tree is not None:
            for name, array in TREE.items():
                np.testing.assert_array_equal(tree[name], array)


class Result:
    """A stored result: a damaged one is none, and is run again."""

    error = "never"
    run = Run("mlp_relu", "adam", 10, 0.1)

    def write(self, folder):
        store = Store(folder, self)
        result = {"final_training_loss": 1.0, "curve": [[10, 1.0]], "diverged": False}
        store.put(self.run, {**result, **self.run.configuration(self)})
        return store.path(self.run)

    def read(self, path):
        found = Store(path.parent, self).get(self.run)
        assert found is None or {"final_training_loss", "curve"} <= set(found)

    fingerprint = "0" * 8


class Events:
    """TensorBoard's files: what comes before the damage is read."""

    error = "event file"

    def write(self, folder):
        writer = EventWriter(folder)
        tag = dynamics.tag("log learning rate/median", "a")
        for step in (1, 2, 3):
            writer.write(step, {tag: 1.0})
        writer.close()
        return next(folder.iterdir())

    def read(self, path):
        steps, rates = dynamics.read(path.parent)
        assert set(steps.tolist()) <= {1, 2, 3} and set(rates) <= {"a"}


READERS = [Weights, Config, Npz, Images, PlainImages, Checkpoint, Result, Events]
DAMAGE = st.lists(st.tuples(
    st.sampled_from(["cut", "flip", "zero", "repeat", "insert"]), st.floats(0, 1),
    st.integers(0, 255)), min_size=1, max_size=3)


def damaged(content: bytes, damage) -> bytes:
    for kind, place, number in damage:
        at = int(place * max(len(content) - 1, 0))
        before, after = content[:at], content[at:]
        content = {
            "cut": before,
            "flip": before + bytes(b ^ (1 << number % 8) for b in after[:1]) + after[1:],
            "zero": before + bytes(min(len(after), number)) + after[number:],
            "repeat": before + after[:number] * 2 + after[number:],
            "insert": before + bytes([number]) + after,
        }[kind]
    return content


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_damaged_files_give_one_clear_error(reader, tmp_path):
    reader = reader()
    path = reader.write(tmp_path)
    good = path.read_bytes()

    @given(DAMAGE)
    @settings(max_examples=60)
    def read(damage):
        path.write_bytes(damaged(good, damage))
        try:
            reader.read(path)
        except ValueError as error:
            with pytest.raises(ValueError, match=reader.error):
                raise error

    reader.read(path)
    read()


def test_wrong_types_in_a_training_config_are_named():
    good = json.loads(TRAINING.to_json())
    for text in ("[]", "3", '"x"', "{", "[" * 50_000, json.dumps({**good, "unroll": "many"}),
                 json.dumps({**good, "network": 3}), json.dumps({**good, "speed": 1})):
        with pytest.raises(ValueError, match=r"the training config|`unroll`|`network`"):
            TrainConfig.from_json(text)


# A little that unpacks to very much.

def bomb_npz(folder):
    with zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(2**24))
    return lambda: read_npz(folder / "a.npz", 10_000)


def liar_npz(folder):
    header = np.lib.format.header_data_from_array_1_0(np.zeros(1)) | {"shape": (2**40,)}
    with zipfile.ZipFile(folder / "a.npz", "w") as archive, archive.open("a.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, header)
    return lambda: read_npz(folder / "a.npz", 10_000)


def bomb_idx(folder):
    write_mnist(folder, train=2, test=1, suffix=".gz")
    content = struct.pack(">4B3I", 0, 0, 8, 3, 2, 28, 28) + bytes(2**24)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content, 1))
    return lambda: problems.load_mnist(folder)


def liar_idx(folder):
    write_mnist(folder, train=2, test=1, suffix=".gz")
    content = struct.pack(">4B3I", 0, 0, 8, 3, *[2**32 - 1] * 3) + bytes(2**24)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content, 1))
    return lambda: problems.load_mnist(folder)


@pytest.mark.parametrize("make", [bomb_npz, liar_npz, bomb_idx, liar_idx])
def test_a_bomb_is_refused_before_it_is_unpacked(make, tmp_path):
    read = make(tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"more than 10000 bytes|without pickles|IDX file"):
            read()
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()
