"""`python -m eval imagenet`: train an image classifier, on ImageNet or other images.

    python -m eval imagenet --model resnet50v2 --data_dir D --batch_size 256 --steps 450000
    python -m eval imagenet --model resnetv2_small --synthetic --steps 300 --compare adam

It uses every device that the backend sees. Several processes: on JAX, the same command for each
with --coordinator, --processes and --process; on PyTorch, under torchrun.

Losses are means over --log_every steps of the training loss. With --out, a folder for each
optimizer holds the latest checkpoint, from which --resume goes on to the same numbers, and
model.keras with the parameters to use; OUT itself holds results and a picture of the losses.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from eval.commands import cli

BACKENDS = ("jax", "tensorflow", "torch")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16", "bfloat16")

OPTIONS = flags.FlagValues()
for define, name, default, text in (
    (flags.DEFINE_string, "model", None, "resnetv2_small, or any model of keras.applications."),
    (flags.DEFINE_string, "data_dir", None, "Where TFDS has prepared the data set."),
    (flags.DEFINE_string, "dataset", "imagenet2012",
     "A TFDS image classification set, or a folder with train/CLASS and validation/CLASS."),
    (flags.DEFINE_bool, "synthetic", False, "Generate images that can be learned."),
    (flags.DEFINE_integer, "classes", 10, "Of --synthetic."),
    (flags.DEFINE_integer, "image_size", None,
     "Height and width; of --synthetic 32, else the model's own."),
    (flags.DEFINE_string, "backend", None, f"One of {', '.join(BACKENDS)}; else KERAS_BACKEND."),
    (flags.DEFINE_string, "optimizer", "hrnn", "hrnn, adam, rmsprop or sgd."),
    (flags.DEFINE_string, "compare", None, "Another optimizer, trained after it, likewise."),
    (flags.DEFINE_string, "weights", None, "Of hrnn: a shipped name or a file."),
    (flags.DEFINE_float, "learning_rate", None, "Of --optimizer; else its own."),
    (flags.DEFINE_float, "compare_learning_rate", None, "Of --compare; else its own."),
    (flags.DEFINE_integer, "batch_size", 64, "Images a step, over all devices."),
    (flags.DEFINE_integer, "steps", None, "Steps, each of one batch."),
    (flags.DEFINE_integer, "every", None,
     "Steps from one validation and checkpoint to the next; it divides --steps."),
    (flags.DEFINE_integer, "log_every", 10, "Steps of a logged loss; it divides --every."),
    (flags.DEFINE_integer, "validation_examples", None, "At most so many; else all."),
    (flags.DEFINE_string, "precision", "float32", f"One of {', '.join(PRECISIONS)}."),
    (flags.DEFINE_integer, "accumulate", 1, "Batches whose gradients make one update."),
    (flags.DEFINE_float, "ema", None, "Momentum of a moving average of the parameters to use."),
    (flags.DEFINE_integer, "model_parallel", 1, "Devices that a kernel is split over; on JAX."),
    (flags.DEFINE_string, "coordinator", None, "HOST:PORT of process 0, on JAX."),
    (flags.DEFINE_integer, "processes", None, "Number of processes, on JAX."),
    (flags.DEFINE_integer, "process", None, "Number of this process, on JAX."),
    (flags.DEFINE_integer, "seed", 0, "Of start values, order and crops."),
    (flags.DEFINE_string, "out", None, "Folder of what is kept."),
    (flags.DEFINE_bool, "resume", False, "Go on from the checkpoints in --out."),
):
    define(name, default, text, flag_values=OPTIONS, required=name in ("model", "steps"))
cli.define_json(OPTIONS)

# What a resumed run may have otherwise.
_MAY_DIFFER = ("resume", "json", "out", "data_dir", "coordinator", "processes", "process", "steps")


def _check() -> None:
    """Raises UsageError where the flags alone cannot be used."""
    lowest = {"classes": 2, "image_size": 8, "batch_size": 1, "steps": 1, "every": 1,
              "log_every": 1, "validation_examples": 1, "accumulate": 1, "model_parallel": 1,
              "seed": 0}
    for name, least in lowest.items():
        if OPTIONS[name].value is not None and OPTIONS[name].value < least:
            raise cli.UsageError(f"--{name} must be at least {least}, got {OPTIONS[name].value}")
    for name in ("learning_rate", "compare_learning_rate"):
        if OPTIONS[name].value is not None and not 0 < OPTIONS[name].value < float("inf"):
            raise cli.UsageError(f"--{name} must be a positive number, got {OPTIONS[name].value}")
    if OPTIONS.ema is not None and not 0 <= OPTIONS.ema <= 1:
        raise cli.UsageError(f"--ema must be from 0 to 1, got {OPTIONS.ema}")
    if OPTIONS.backend not in (None, *BACKENDS):
        raise cli.UsageError(f"--backend must be one of {', '.join(BACKENDS)}")
    if OPTIONS.precision not in PRECISIONS:
        raise cli.UsageError(f"--precision must be one of {', '.join(PRECISIONS)}")
    every, log_every = _spacing()
    if OPTIONS.steps % every:
        raise cli.UsageError(f"--every must divide --steps, {OPTIONS.steps}, got {every}")
    if every % log_every:
        raise cli.UsageError(
            f"--log_every must divide {every}, the steps of --every, got {log_every}")
    if OPTIONS.resume and not OPTIONS.out:
        raise cli.UsageError("--resume needs --out")
    hosts = [OPTIONS[name].value is None for name in ("coordinator", "processes", "process")]
    if any(hosts) and not all(hosts):
        raise cli.UsageError("--coordinator, --processes and --process go together")
    if not OPTIONS.synthetic and OPTIONS.dataset == "imagenet2012" and not OPTIONS.data_dir:
        raise cli.UsageError("--data_dir must say where imagenet2012 is; or take --synthetic")


def _spacing() -> tuple[int, int]:
    """Steps of an epoch and of a logged loss; short runs need not say them."""
    every = OPTIONS.every or OPTIONS.steps
    log_every = OPTIONS.log_every
    return every, min(log_every, every) if OPTIONS["log_every"].using_default_value else log_every


def _use_backend() -> None:
    """Choose the backend, which Keras reads when it is imported."""
    if OPTIONS.backend:
        os.environ["KERAS_BACKEND"] = OPTIONS.backend
    import keras

    if OPTIONS.backend not in (None, keras.backend.backend()):
        raise cli.UsageError(
            f"--backend: Keras is already on {keras.backend.backend()} in this process")
    if keras.backend.backend() != "tensorflow":
        import tensorflow as tf

        # It feeds images; the accelerators are the backend's.
        tf.config.set_visible_devices([], "GPU")
    if OPTIONS.coordinator:
        if keras.backend.backend() != "jax":
            raise cli.UsageError("--coordinator is for --backend jax")
        from eval.imagenet import devices

        devices.use_hosts(OPTIONS.coordinator, OPTIONS.processes, OPTIONS.process)


def _source(size: int) -> Any:
    from eval.imagenet import images

    if OPTIONS.synthetic:
        return images.Synthetic(OPTIONS.classes, size)
    try:
        if Path(OPTIONS.dataset).is_dir():
            return images.Folder(OPTIONS.dataset)
        return images.Tfds(OPTIONS.dataset, OPTIONS.data_dir)
    except ValueError as error:
        raise cli.UsageError(str(error)) from None


def _image_size() -> int:
    from eval.imagenet import image_models

    if OPTIONS.model not in image_models.names():
        raise cli.UsageError(
            f"--model must be one of {', '.join(image_models.names())}, got {OPTIONS.model!r}")
    if OPTIONS.image_size:
        return OPTIONS.image_size
    return 32 if OPTIONS.synthetic else image_models.own_size(OPTIONS.model)


def _claim(folder: Path) -> None:
    """Make the folder of the results, or check that it holds the same run.

    Raises:
        UsageError: if there is another run, or none that was to be resumed.
    """
    mine = {name: OPTIONS[name].value for name in OPTIONS if name not in _MAY_DIFFER
            and not OPTIONS[name].using_default_value}
    from hrnn_opt.files.atomic import write_atomic

    path = folder / "config.json"
    if not path.exists():
        if OPTIONS.resume:
            raise cli.UsageError(f"--resume: there is no run in {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(mine, indent=2).encode())
        return
    if not OPTIONS.resume:
        raise cli.UsageError(f"--out: there is a run in {folder}; take --resume, or another folder")
    theirs = json.loads(path.read_text())
    differ = sorted(name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name))
    if differ:
        raise cli.UsageError(
            f"--resume: the run in {folder} had other flags: "
            + ", ".join(f"--{name} {theirs.get(name, 'not given')}" for name in differ))


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Draw the training losses over steps."""
    from eval.figures import pictures

    figure, axes = pictures.panels(1, 1, width=6, height=3.6)
    axis = axes[0, 0]
    for result, colour in zip(results, (pictures.BLUE, pictures.VERMILION)):
        axis.plot(*zip(*result["curve"]), color=colour, linewidth=2)
    axis.set(xlabel="step", ylabel="training loss", yscale="log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("")
    pictures.labels(
        axis, [result["optimizer"] for result in results], results[0]["curve"][-1][0],
        np.array([result["final_loss"] for result in results]),
        [pictures.BLUE, pictures.VERMILION][: len(results)])
    pictures.save(figure, path)


def _print_table(results: list[dict[str, Any]]) -> None:
    import rich.table

    def cell(result: dict[str, Any], key: str, form: str) -> str:
        return format(result[key], form) if result.get(key) is not None else "-"

    table = rich.table.Table(
        "optimizer", "loss", "validation loss", "accuracy", "top 5", "images/s",
        "optimizer's share of the step", "peak memory (GB)")
    for result in results:
        memory = result["peak_memory_bytes"]
        table.add_row(
            result["optimizer"], cell(result, "final_loss", ".4f"),
            cell(result, "cross_entropy", ".4f"), cell(result, "accuracy", ".1%"),
            cell(result, "top_5", ".1%"), cell(result, "images_per_second", ".4g"),
            cell(result, "optimizer_share", ".1%"),
            f"{memory.get('device', memory['process']) / 1e9:.2f}")
    rich.print(table)


def main(argv: list[str]) -> None:
    """The command line."""
    cli.no_arguments(argv)
    _check()
    _use_backend()
    import keras

    from eval.imagenet import training
    from eval.imagenet.devices import Devices
    from eval.runs import optimizers

    runs = [(OPTIONS.optimizer, OPTIONS.learning_rate)]
    if OPTIONS.compare is not None:
        runs.append((OPTIONS.compare, OPTIONS.compare_learning_rate))
    for flag, (name, _) in zip(("optimizer", "compare"), runs):
        if name not in optimizers.OPTIMIZERS:
            raise cli.UsageError(
                f"--{flag} must be one of {', '.join(optimizers.OPTIMIZERS)}, got {name!r}")
    if len({name for name, _ in runs}) < len(runs):
        raise cli.UsageError(f"--compare must be another optimizer than {OPTIONS.compare}")
    if OPTIONS.weights is not None and optimizers.LEARNED not in dict(runs):
        raise cli.UsageError("--weights are for the optimizer hrnn")
    cli.check_weights(OPTIONS.weights)
    keras.mixed_precision.set_dtype_policy(OPTIONS.precision)
    size = _image_size()
    try:
        devices = Devices(OPTIONS.model_parallel)
    except ValueError as error:
        raise cli.UsageError(str(error)) from None
    if OPTIONS.batch_size % devices.count:
        raise cli.UsageError(
            f"--batch_size must be a multiple of the devices that share it, {devices.count}, got "
            f"{OPTIONS.batch_size}")
    source = _source(size)
    first = devices.process.index == 0
    if OPTIONS.out and first:
        _claim(Path(OPTIONS.out))
    results = []
    for name, learning_rate in runs:
        try:
            results.append(training.train(
                OPTIONS, name, learning_rate, size, source, devices, *_spacing()))
        except training.ImageSizeError as error:
            raise cli.UsageError(f"--image_size: {error}") from None
        keras.backend.clear_session(free_memory=True)
    if not first:
        return
    if OPTIONS.out:
        from hrnn_opt.files.atomic import write_atomic

        write_atomic(Path(OPTIONS.out, "result.json"), json.dumps(results, indent=2).encode())
        plot(results, Path(OPTIONS.out, "losses.png"))
    if OPTIONS.json:
        cli.print_json(results)
    else:
        _print_table(results)
