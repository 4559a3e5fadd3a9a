"""`python -m eval imagenet`, and the pipelines of images behind it."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets")

import tensorflow as tf
import tensorflow_datasets as tfds

from eval.__main__ import main
from eval.imagenet import image_models, images
from eval.imagenet.images import Process
from tests.eval.tiny_imagenet import tiny_network

ROOT = Path(__file__).parents[2]
SIZE = 16


class NumberedImages(tfds.core.GeneratorBasedBuilder):
    """Images of one grey each, by which they are told apart."""

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded: no checksums beside the code.
    code_path = None
    COUNTS = {"train": 13, "test": 5}  # noqa: RUF012

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict({
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(num_classes=4)}),
            supervised_keys=("image", "label"))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(n) for split, n in self.COUNTS.items()}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"image": grey(i), "label": i % 4}


def grey(i):
    return np.full((20, 24, 3), 10 * i, "uint8")


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    NumberedImages(data_dir=folder).download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=4))
    return str(folder)


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder")
    for split, count in (("train", 13), ("val", 5)):
        for i in range(count):
            path = folder / split / f"class{i % 4}" / f"{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tf.io.encode_png(grey(i)).numpy())
    return str(folder)


@pytest.fixture(params=["tfds", "folder"])
def source(request):
    if request.param == "tfds":
        return images.Tfds("numbered_images", request.getfixturevalue("tfds_dir"))
    return images.Folder(request.getfixturevalue("image_folder"))


def batches(source, count, **arguments):
    dataset = images.training(source, **{"image_size": SIZE, "seed": 0, **arguments})
    return [(x.numpy(), y.numpy()) for x, y in dataset.take(count)]


def numbers(batches):
    """Which example each of the images is."""
    return [int(x[0, 0, 0]) // 10 for batch, _ in batches for x in batch]


def test_each_epoch_has_each_example_once_in_an_order_of_its_own(source):
    found = numbers(batches(source, 13, batch_size=3))
    epochs = [found[:13], found[13:26], found[26:39]]
    assert all(sorted(epoch) == list(range(13)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert found == numbers(batches(source, 13, batch_size=3))
    assert found != numbers(batches(source, 13, batch_size=3, seed=1))
    for x, y in batches(source, 5, batch_size=3):
        np.testing.assert_array_equal(x[:, 0, 0, 0] // 10 % 4, y)


def test_a_resumed_pipeline_goes_on_where_it_was(source):
    whole = batches(source, 12, batch_size=3)
    for start in (1, 6, 11):
        rest = batches(source, 12 - start, batch_size=3, start=start)
        for ours, theirs in zip(rest, whole[start:], strict=True):
            np.testing.assert_array_equal(ours[0], theirs[0])
            np.testing.assert_array_equal(ours[1], theirs[1])


def test_processes_share_out_the_examples(source):
    shares = [numbers(batches(source, 2, batch_size=3, process=Process(i, 2))) for i in range(2)]
    assert len({*shares[0], *shares[1]}) == 12


def test_validation_sees_each_example_once(source):
    dataset, count = images.validation(source, image_size=SIZE, batch_size=2)
    seen = [tuple(part.numpy() for part in batch) for batch in dataset]
    assert len(seen) == count == 3 and all(len(x) == 2 for x, _, _ in seen)
    pixels = [x[:, 0, 0, 0] // 10 for x, _, _ in seen]
    weights = np.concatenate([w for _, _, w in seen])
    assert sorted(np.concatenate(pixels)[weights > 0]) == list(range(5))
    assert weights.sum() == 5


def test_crops():
    ramp = np.zeros((40, 60, 3), "uint8")
    ramp[..., 0], ramp[..., 1] = np.arange(40)[:, None] * 4, np.arange(60) * 4
    middle = images.centre_crop(tf.constant(ramp), 35).numpy()
    # 7/8 of 40, from the middle: no resampling.
    np.testing.assert_array_equal(middle, ramp[2:37, 12:47])
    crops = [images.random_crop(tf.constant(ramp), SIZE, [0, i]).numpy() for i in range(40)]
    np.testing.assert_array_equal(crops[3], images.random_crop(ramp, SIZE, [0, 3]).numpy())
    rows = [float(crop[-1, 0, 0]) - float(crop[0, 0, 0]) for crop in crops]
    columns = [float(crop[0, -1, 1]) - float(crop[0, 0, 1]) for crop in crops]
    # Of all sizes, never upside down, mirrored about half of the time.
    assert min(rows) > 0 and max(rows) > 2 * min(rows)
    assert 10 < sum(c < 0 for c in columns) < 30


def test_synthetic_images_are_the_same_for_any_number_of_processes():
    source = images.Synthetic(3, SIZE)
    one = batches(source, 2, batch_size=4)
    two = [batches(source, 2, batch_size=2, process=Process(i, 2)) for i in range(2)]
    for step in range(2):
        together = np.stack([two[i][step][0] for i in range(2)], axis=1)
        np.testing.assert_array_equal(together.reshape(one[step][0].shape), one[step][0])
    assert not np.array_equal(one[0][0], batches(source, 1, batch_size=4, seed=1)[0][0])


def test_what_is_no_set_of_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`dataset` 'no_such_set' cannot be loaded"):
        images.Tfds("no_such_set", None)
    with pytest.raises(ValueError, match="`dataset` 'mnist' is not prepared in `data_dir`"):
        images.Tfds("mnist", str(tmp_path))
    with pytest.raises(ValueError, match="folders train and validation"):
        images.Folder(tmp_path)


# The command.


@pytest.fixture
def tiny(monkeypatch):
    """A tiny network in place of the small one: what is tested is all around it."""
    monkeypatch.setattr(image_models, "_resnetv2_small", tiny_network)


def imagenet(capsys, *arguments):
    assert main(["imagenet", "--model=resnetv2_small", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_training_through_tfds_beside_adam(capsys, tiny, tmp_path):
    with tfds.testing.mock_data(num_examples=10):
        results = imagenet(
            capsys, "--data_dir=anywhere", "--image_size=16", "--batch_size=4", "--steps=6",
            "--log_every=2", "--compare=adam", f"--out={tmp_path / 'run'}")
    assert [result["optimizer"] for result in results] == ["hrnn", "adam"]
    for result in results:
        assert [step for step, _ in result["curve"]] == [2, 4, 6]
        assert result["images_per_second"] > 0 and 0 < result["optimizer_share"] <= 1
        assert {"accuracy", "top_5", "cross_entropy"} < set(result)
        # A thousand classes, and labels that are noise.
        assert 4 < result["cross_entropy"] < 12
        model = keras.saving.load_model(tmp_path / "run" / result["optimizer"] / "model.keras")
        assert model.output_shape == (None, 1000)
    assert (tmp_path / "run/losses.png").read_bytes().startswith(b"\x89PNG")


COMMON = ("--synthetic", "--image_size=16", "--classes=3", "--batch_size=4", "--steps=12",
          "--every=4", "--log_every=2", "--validation_examples=6")


def test_a_killed_run_resumes_to_the_same_numbers(capsys, tiny, tmp_path):
    """With averaging, loss scaling, accumulated gradients and a moving average at once."""
    policy = keras.config.dtype_policy()
    flags = (*COMMON, "--precision=mixed_float16", "--accumulate=2", "--ema=0.9")
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "tests/eval/tiny_imagenet.py", "--model=resnetv2_small", *flags,
         f"--out={killed}"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        while not list(killed.glob("hrnn/checkpoint-*")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.stderr.read().decode()
        assert not (killed / "result.json").exists()
        (resumed,) = imagenet(capsys, *flags, f"--out={killed}", "--resume")
        (whole,) = imagenet(capsys, *flags, f"--out={tmp_path / 'whole'}")
    finally:
        process.kill()
        process.stderr.close()
        keras.config.set_dtype_policy(policy)
    for name in ("curve", "cross_entropy", "accuracy"):
        assert resumed[name] == whole[name], name
    ours, theirs = (
        keras.saving.load_model(folder / "hrnn/model.keras").get_weights()
        for folder in (killed, tmp_path / "whole"))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.jax_only
def test_two_processes_train_and_resume_as_one_does(capsys, tiny, tmp_path):
    """Each has a device and half of the batch; both share a folder, to which one writes.

    With weights that do not turn gradients: which axes there are where gradients have been nearly
    0 is for rounding to say, and sums over two processes round in another way.
    """
    common = (*COMMON, "--weights=paper")

    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    processes = [subprocess.Popen(
        [sys.executable, "tests/eval/tiny_imagenet.py", "--model=resnetv2_small", *common,
         f"--out={tmp_path / 'two'}", f"--coordinator=localhost:{port}", "--processes=2",
         f"--process={i}", "--steps=4", "then", "--steps=12", "--resume"], cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for i in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=500)
        assert process.returncode == 0, errors
    (one,) = imagenet(capsys, *common, f"--out={tmp_path / 'one'}")
    (two,) = json.loads((tmp_path / "two/result.json").read_text())
    np.testing.assert_allclose(two["curve"], one["curve"], rtol=1e-4)
    assert two["cross_entropy"] == pytest.approx(one["cross_entropy"], rel=1e-3)
    ours, theirs = (
        keras.saving.load_model(tmp_path / name / "hrnn/model.keras").get_weights()
        for name in ("one", "two"))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert sorted(path.name for path in (tmp_path / "two/hrnn").iterdir()) == [
        "checkpoint-12.weights.h5", "model.keras", "records-12.json"]


@pytest.mark.parametrize("flags, message", [
    ("--steps=0", "--steps must be at least 1, got 0"),
    ("--steps=10 --every=4", "--every must divide --steps, 10, got 4"),
    ("--steps=10 --log_every=4", "--log_every must divide 10"),
    ("--steps=10 --model=resnet51", "--model must be one of resnetv2_small, .*got 'resnet51'"),
    ("--steps=10 --optimizer=lion", "--optimizer must be one of hrnn, .*got 'lion'"),
    ("--steps=10 --compare=hrnn", "--compare must be another optimizer"),
    ("--steps=10 --optimizer=adam --weights=default", "--weights are for the optimizer hrnn"),
    ("--steps=10 --precision=half", "--precision must be one of"),
    ("--steps=10 --backend=mxnet", "--backend must be one of"),
    ("--steps=10 --resume", "--resume needs --out"),
    ("--steps=10 --process=1", "go together"),
    ("--steps=10 --learning_rate=-1", "--learning_rate must be a positive number"),
    ("--steps=10 --ema=2", "--ema must be from 0 to 1"),
    ("--steps=10 --model_parallel=2", "`model_parallel` must divide the number of devices, 1"),
    ("--steps=10 --nosynthetic", "--data_dir must say where imagenet2012 is"),
    ("--steps=10 --nosynthetic --dataset=no_such_set", "`dataset` 'no_such_set' cannot be loaded"),
    ("--steps=10 --model=inceptionv3", "--image_size: .*at least 75x75"),
])
def test_what_cannot_be_used_gives_one_clear_error(capsys, flags, message):
    code = main(["imagenet", "--model=resnetv2_small", "--synthetic", *flags.split()])
    printed = capsys.readouterr()
    assert code == 2 and printed.out == ""
    assert printed.err.startswith("error: ")
    assert re.search(message, printed.err), printed.err
