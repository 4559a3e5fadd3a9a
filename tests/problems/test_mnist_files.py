"""Reading MNIST's files."""

import gzip

import pytest

pytest.importorskip("jax")

import jax
import numpy as np

import problems
from tests.problems.helpers import write_idx, write_mnist


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_reads_idx_files(tmp_path, suffix):
    write_mnist(tmp_path, suffix=suffix)
    pixels = np.zeros((16, 28, 28))
    pixels[3, 5, 7] = 255
    write_idx(tmp_path / f"t10k-images-idx3-ubyte{suffix}", pixels)
    x_train, y_train, x_test, y_test = problems.load_mnist(tmp_path)
    assert x_train.shape == (32, 28, 28, 1)
    assert (x_train.dtype, y_train.dtype) == (np.float32, np.int32)
    assert 0 <= x_train.min() < x_train.max() <= 1
    np.testing.assert_array_equal(y_train, np.arange(32) % 10)
    assert y_test.shape == (16,)
    assert x_test[3, 5, 7, 0] == 1
    assert x_test.sum() == 1


def test_missing_file(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte .* is missing"):
        problems.load_mnist(tmp_path)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def cut_header(path):
    path.write_bytes(path.read_bytes()[:7])


def broken_gzip(path):
    path.write_bytes(gzip.compress(path.read_bytes())[:40])


def wrong_magic(path):
    path.write_bytes(b"\0\0\x0d" + path.read_bytes()[3:])


def labels_instead(path):
    write_idx(path, np.arange(32))


@pytest.mark.parametrize("damage", [cut, cut_header, broken_gzip, wrong_magic, labels_instead])
def test_corrupt_file(tmp_path, damage):
    write_mnist(tmp_path)
    damage(tmp_path / "train-images-idx3-ubyte")
    with pytest.raises(ValueError, match="train-images-idx3-ubyte"):
        problems.load_mnist(tmp_path)


def test_images_and_labels_must_agree(tmp_path):
    write_mnist(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(31))
    with pytest.raises(ValueError, match=r"32 images.*31 labels"):
        problems.load_mnist(tmp_path)


def test_test_suite_takes_its_data_from_data_dir(tmp_path):
    write_mnist(tmp_path)
    suite = problems.suite("test", data_dir=str(tmp_path))
    images = [p for p in suite if isinstance(getattr(p, "data", None), problems.MNIST)]
    assert [p.samples for p in images] == [60000] * 4
    assert {p.program for p in images} <= {p.program for p in problems.suite("test")}
    with pytest.raises(ValueError, match="has 32 images"):
        images[0].sample_instance(jax.random.key(0))
    with pytest.raises(ValueError, match="data_dir must name the folder"):
        problems.suite("test")[-1].sample_instance(jax.random.key(0))
