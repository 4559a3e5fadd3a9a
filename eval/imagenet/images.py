"""Images to classify, as `tf.data` pipelines: TFDS, folders of images, and generated ones.

What a pipeline yields depends on the seed, the step and the number of processes alone: nothing is
drawn from a state that a run that was killed would have lost. Each epoch has an order of its own,
and each example a random crop of its own, drawn from the seed and the example's number in the run.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

# Undecoded examples among which the next is drawn: 2 GB of ImageNet.
SHUFFLE_BUFFER = 16_384
# Of the shorter side, what an evaluation crop keeps.
CENTRE = 0.875
# Of generated images: examples in an epoch, cells of a pattern, and the noise's deviation.
_SYNTHETIC_SIZES = {"train": 1_000_000, "validation": 4096}
_CELLS = 8
_NOISE = 48.0
IMAGE_FILES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")


@dataclasses.dataclass(frozen=True)
class Process:
    """One of `count` processes that train together, each on its own share of the examples."""

    index: int = 0
    count: int = 1


class Source(Protocol):
    """Where examples come from.

    Attributes:
        classes: number of labels.
        augmented: whether training takes random crops of its images.
    """

    classes: int
    augmented: bool

    def size(self, split: str, process: Process) -> int:
        """How many examples a process has of `"train"` or `"validation"`."""

    def records(self, split: str, process: Process, order: Any | None) -> tf.data.Dataset:
        """An epoch of what stands for the examples, cheap to skip; in an order that is drawn with
        the seed `order`, an int64 tensor, if it is not None."""

    def decode(self, split: str, record: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """The (H, W, 3) uint8 image and the int32 label of a record."""


class Tfds:
    """An image classification set of TensorFlow Datasets that has been prepared in `data_dir`.

    Raises:
        ValueError: if there is none of that name, it is not prepared, or it has no image and label.
    """

    augmented = True

    def __init__(self, name: str, data_dir: str | None) -> None:
        import tensorflow_datasets as tfds

        self._tfds = tfds
        try:
            self._builder = tfds.builder(name, data_dir=data_dir)
        except (tfds.core.DatasetNotFoundError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"`dataset` {name!r} cannot be loaded: {reason}") from None
        features = self._builder.info.features
        keys = self._builder.info.supervised_keys
        if not (keys and len(keys) == 2 and isinstance(features[keys[0]], tfds.features.Image)
                and isinstance(features[keys[1]], tfds.features.ClassLabel)):
            raise ValueError(
                f"`dataset` must give an image and its class, got {name!r} of {features}.")
        self._image, self._label = keys
        self.classes = features[self._label].num_classes
        held_out = [s for s in ("validation", "test") if s in self._builder.info.splits]
        self._splits = {"train": "train", "validation": (held_out or ["validation"])[0]}
        try:
            self.size("train", Process())
        except (AssertionError, ValueError, tfds.core.DatasetNotFoundError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"`dataset` {name!r} is not prepared in `data_dir` {data_dir!r}: {reason}"
            ) from None

    def _dataset(self, split: str, process: Process, order: Any | None) -> tf.data.Dataset:
        tfds, name = self._tfds, self._splits[split]
        if process.count > 1:
            # As many for each, or the last steps of an epoch would wait for a partner.
            name = tfds.even_splits(name, process.count, drop_remainder=True)[process.index]
        read = tfds.ReadConfig(shuffle_seed=order, try_autocache=False, skip_prefetch=True)
        return self._builder.as_dataset(
            split=name, shuffle_files=order is not None, read_config=read,
            decoders={self._image: tfds.decode.SkipDecoding()})

    def size(self, split: str, process: Process) -> int:
        # Not a number of the graph in which an epoch's records may be asked for.
        with tf.init_scope():
            return int(self._dataset(split, process, None).cardinality())

    def records(self, split: str, process: Process, order: Any | None) -> tf.data.Dataset:
        records = self._dataset(split, process, order).map(
            lambda example: (example[self._image], example[self._label]))
        if order is None:
            return records
        buffer = min(SHUFFLE_BUFFER, self.size(split, process))
        return records.shuffle(buffer, seed=order, reshuffle_each_iteration=False)

    def decode(self, split: str, record: Any) -> tuple[tf.Tensor, tf.Tensor]:
        encoded, label = record
        return _decode(encoded), tf.cast(label, tf.int32)


class Folder:
    """Images in `root/train/CLASS/*` and `root/validation/CLASS/*` (or `val` or `test`).

    Raises:
        ValueError: if they are not there, or the two splits have other classes.
    """

    augmented = True

    def __init__(self, root: str | Path) -> None:
        held_out = [s for s in ("validation", "val", "test") if Path(root, s).is_dir()]
        if not Path(root, "train").is_dir() or not held_out:
            raise ValueError(
                f"`dataset` must hold the folders train and validation (or val, or test), got "
                f"{str(root)!r}.")
        self._files = {}
        classes = {}
        for split, folder in (("train", "train"), ("validation", held_out[0])):
            classes[split] = sorted(p.name for p in Path(root, folder).iterdir() if p.is_dir())
            found = [
                (str(file), label) for label, name in enumerate(classes[split])
                for file in sorted(Path(root, folder, name).iterdir())
                if file.suffix.lower() in IMAGE_FILES]
            if not found:
                raise ValueError(f"`dataset` has no images in {str(Path(root, folder))!r}.")
            self._files[split] = found
        if classes["train"] != classes["validation"]:
            differ = sorted(set(classes["train"]) ^ set(classes["validation"]))
            raise ValueError(f"`dataset` must have the same classes in both splits, not: {differ}.")
        self.classes = len(classes["train"])

    def size(self, split: str, process: Process) -> int:
        return len(self._files[split]) // process.count

    def records(self, split: str, process: Process, order: Any | None) -> tf.data.Dataset:
        size = self.size(split, process)
        mine = self._files[split][process.index :: process.count][:size]
        paths, labels = zip(*mine)
        records = tf.data.Dataset.from_tensor_slices((list(paths), np.array(labels, "int32")))
        if order is None:
            return records
        return records.shuffle(size, seed=order, reshuffle_each_iteration=False)

    def decode(self, split: str, record: Any) -> tuple[tf.Tensor, tf.Tensor]:
        path, label = record
        return _decode(tf.io.read_file(path)), label


class Synthetic:
    """Generated images that can be learned: each class is a pattern of colours, which is moved
    about, mirrored and covered with noise.

    Any number of processes see the same examples in a step: process i of n has every nth.

    Args:
        classes: number of labels.
        size: height and width of the images.
    """

    augmented = False

    def __init__(self, classes: int, size: int) -> None:
        self.classes = classes
        self._size = size
        rng = np.random.default_rng(0)
        self._patterns = rng.uniform(32, 224, (classes, _CELLS, _CELLS, 3)).astype("float32")

    def size(self, split: str, process: Process) -> int:
        return _SYNTHETIC_SIZES[split] // process.count

    def records(self, split: str, process: Process, order: Any | None) -> tf.data.Dataset:
        mine = tf.data.Dataset.range(process.index, _SYNTHETIC_SIZES[split], process.count)
        mine = mine.take(self.size(split, process))
        if order is None:
            return mine
        # The order of an epoch is what is drawn in it: no example comes twice.
        return mine.map(lambda i: i + (order + 1) * _SYNTHETIC_SIZES[split])

    def decode(self, split: str, record: Any) -> tuple[tf.Tensor, tf.Tensor]:
        seeds = tf.random.split([record, 1 if split == "train" else 2], 4)

        def draw(k: int, shape: Any, high: int) -> tf.Tensor:
            return tf.random.stateless_uniform(shape, seeds[k], 0, high, tf.int32)

        label = draw(0, (), self.classes)
        image = tf.gather(tf.constant(self._patterns), label)
        image = tf.roll(image, draw(1, (2,), 3) - 1, (0, 1))
        image = tf.cond(draw(2, (), 2) == 0, lambda: image, lambda: image[:, ::-1])
        image = tf.image.resize(image, (self._size, self._size))
        image += _NOISE * tf.random.stateless_normal(image.shape, seeds[3])
        return tf.cast(tf.clip_by_value(image, 0, 255), tf.uint8), label


def _decode(encoded: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_image(encoded, channels=3, expand_animations=False)


def _resize(image: tf.Tensor, size: int) -> tf.Tensor:
    image = tf.image.resize(image, (size, size), antialias=True)
    return tf.cast(tf.round(image), tf.uint8)


def random_crop(image: tf.Tensor, size: int, seed: tf.Tensor) -> tf.Tensor:
    """The usual training augmentation of ImageNet: a crop of 8 % to all of the image's area and a
    ratio of its sides of 3/4 to 4/3, and mirrored half of the time.

    Args:
        image: (H, W, 3) uint8.
        size: height and width of the result.
        seed: (2,) integers.
    """
    seeds = tf.random.split(seed, 2)
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image), tf.zeros((1, 0, 4)), seeds[0], min_object_covered=0.0,
        aspect_ratio_range=(3 / 4, 4 / 3), area_range=(0.08, 1.0), max_attempts=10,
        use_image_if_no_bounding_boxes=True)
    crop = tf.slice(image, begin, extent)
    crop.set_shape((None, None, 3))
    return tf.image.stateless_random_flip_left_right(_resize(crop, size), seeds[1])


def centre_crop(image: tf.Tensor, size: int) -> tf.Tensor:
    """The usual evaluation crop: the middle square, 7/8 of the image's shorter side."""
    shape = tf.shape(image)
    side = tf.cast(tf.round(CENTRE * tf.cast(tf.minimum(shape[0], shape[1]), tf.float32)), tf.int32)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    crop = image[top : top + side, left : left + side]
    crop.set_shape((None, None, 3))
    return _resize(crop, size)


def _in_order(dataset: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)


def training(source: Source, *, image_size: int, batch_size: int, seed: int, start: int = 0,
             process: Process | None = None) -> tf.data.Dataset:
    """Batches without end, from the one of step `start` on.

    Args:
        source: of the examples.
        image_size: height and width.
        batch_size: examples a step of this process.
        seed: draws orders and crops.
        start: steps to leave out.
        process: which share of the examples.

    Returns:
        Pairs of (batch, size, size, 3) uint8 images and (batch,) int32 labels.
    """
    process = process or Process()
    size = source.size("train", process)
    first = start * batch_size
    # Epochs are one stream, so that a small set makes whole batches.

    # Sources are plain Python, not to be rewritten into a graph.
    @tf.autograph.experimental.do_not_convert
    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        # Of this graph alone, so that orders depend on no seed but ours.
        tf.random.set_seed(1)
        return source.records("train", process, number + (seed << 20))

    records = tf.data.Dataset.range(first // size, np.iinfo("int64").max).flat_map(epoch)
    records = records.skip(first % size)
    numbers = tf.data.Dataset.counter(first)

    def example(record: Any, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image, label = source.decode("train", record)
        if source.augmented:
            image = random_crop(
                image, image_size, [seed, number * process.count + process.index])
        return tf.ensure_shape(image, (image_size, image_size, 3)), label

    dataset = tf.data.Dataset.zip(records, numbers)
    dataset = dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE)
    return _in_order(
        dataset.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE))


def validation(source: Source, *, image_size: int, batch_size: int, examples: int | None = None,
               process: Process | None = None) -> tuple[tf.data.Dataset, int]:
    """The held-out examples once, in batches of one size.

    Args:
        source, image_size, batch_size, process: see `training`.
        examples: at most so many over all processes; None for all.

    Returns:
        Triples of images, labels and (batch,) float32 weights, 0 for what fills the last batch; and
        the number of batches.
    """
    process = process or Process()
    size = source.size("validation", process)
    if examples is not None:
        size = min(size, max(examples // process.count, 1))
    batches = math.ceil(size / batch_size)
    missing = batches * batch_size - size

    def example(record: Any, weight: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        image, label = source.decode("validation", record)
        if source.augmented:
            image = centre_crop(image, image_size)
        return tf.ensure_shape(image, (image_size, image_size, 3)), label, weight

    records = source.records("validation", process, None).take(size)
    dataset = tf.data.Dataset.zip(records, tf.data.Dataset.from_tensors(1.0).repeat())
    dataset = dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE)
    if missing:
        spec = dataset.element_spec
        empty = tuple(tf.zeros(part.shape, part.dtype) for part in spec)
        dataset = dataset.concatenate(tf.data.Dataset.from_tensors(empty).repeat(missing))
    dataset = dataset.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    return _in_order(dataset), batches
