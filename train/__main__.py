"""`python -m train`: meta-train the hierarchical RNN.

The flags are the fields of `train.config.TrainConfig`, plus where the run is written and when it
stops. `--out` holds, at any time: `config.json`, the last checkpoints, `log.jsonl` (a line for each
meta-step), `last.safetensors` and `best.safetensors` (weights for `HierarchicalLOpt`).
"""

from __future__ import annotations

import ast
import dataclasses
import gc
import importlib
import json
import os
import sys
import time
from pathlib import Path

from absl import app, flags

from train.config import TrainConfig
from train.machine import use_every_core, use_large_pages

FLAGS = flags.FLAGS

flags.DEFINE_string("out", "runs/train", "Folder of the run.")
flags.DEFINE_bool("resume", False, "Go on from the newest checkpoint in --out.")
flags.DEFINE_float("minutes", 0.0, "Stop after so many minutes of this process; 0 for no limit.")
flags.DEFINE_float("checkpoint_minutes", 2.0, "Minutes between checkpoints.")
flags.DEFINE_integer(
    "validate_every", 100,
    "Meta-steps between validations, each with histograms for TensorBoard; 0 for none.")
flags.DEFINE_bool("dry_run", False, "Print what would run and how long compiling takes, and stop.")
flags.DEFINE_string(
    "coordinator", "", "HOST:PORT of process 0, for a run on several processes: each is started "
    "with the same flags but --process.")
flags.DEFINE_integer("processes", 1, "Number of processes, with --coordinator.")
flags.DEFINE_integer("process", 0, "Number of this process, with --coordinator.")
flags.DEFINE_list(
    "modules", [], "Python modules to import first: they may add problems, suites and kinds of "
    "networks.")
flags.DEFINE_string("config", "", "A config.json to repeat; the other flags change it.")

_TYPES = {
    "str": flags.DEFINE_string, "int": flags.DEFINE_integer, "float": flags.DEFINE_float,
    "bool": flags.DEFINE_bool,
}
# Fields that are dicts.
_JSON = "network", "units"


def _define_config_flags() -> None:
    descriptions = _argument_docs(TrainConfig.__doc__ or "")
    for field in dataclasses.fields(TrainConfig):
        text = descriptions.get(field.name, "")
        if field.type in _TYPES:
            default = getattr(TrainConfig, field.name)
            _TYPES[field.type](field.name, default, text)
        elif field.name in _JSON:
            flags.DEFINE_string(field.name, "{}", f"{text} As JSON.")
        else:
            low, high = getattr(TrainConfig, field.name)
            flags.DEFINE_string(field.name, f"{low},{high}", f"{text} As LOW,HIGH.")


def _argument_docs(docstring: str) -> dict[str, str]:
    """Each argument's description in a Google-style docstring, on one line."""
    docs: dict[str, str] = {}
    name = ""
    for line in docstring.partition("Args:")[2].partition("Raises:")[0].splitlines():
        if line.startswith(" " * 8) and not line.startswith(" " * 9) and ":" in line:
            name, _, docs[name] = line.strip().partition(": ")
            name = line.strip().partition(":")[0]
        elif name:
            docs[name] += " " + line.strip()
    return docs


def config_from_flags() -> TrainConfig:
    """The training config that the flags ask for.

    Raises:
        ValueError: if one is not allowed.
    """
    values = {}
    if FLAGS.config:
        values = dataclasses.asdict(TrainConfig.from_json(Path(FLAGS.config).read_text()))
    for field in dataclasses.fields(TrainConfig):
        flag = FLAGS[field.name]
        if FLAGS.config and not flag.present:
            continue
        if field.type in _TYPES:
            values[field.name] = flag.value
            continue
        try:
            values[field.name] = (
                json.loads(flag.value) if field.name in _JSON
                else tuple(ast.literal_eval(part) for part in flag.value.split(",")))
        except (ValueError, SyntaxError):
            raise ValueError(
                f"`{field.name}` must be "
                f"{'JSON' if field.name in _JSON else 'LOW,HIGH'}, got {flag.value!r}."
            ) from None
    return TrainConfig(**values)


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        print(f"python -m train: unknown argument {argv[1]!r}.", file=sys.stderr)
        return 2
    try:
        # Before the config, which may name what they register.
        for module in FLAGS.modules:
            importlib.import_module(module)
        config = config_from_flags()
    except (ValueError, OSError) as error:
        print(f"python -m train: {error}", file=sys.stderr)
        return 2
    import jax

    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(Path(FLAGS.out).parent / ".jax_cache"))
    jax.config.update("jax_compilation_cache_dir", cache)
    # By itself the cache leaves out what takes less than a second: a third of a warm start.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    # What JAX traces is made of so many objects that looking for garbage takes a tenth of the time.
    gc.set_threshold(100_000)
    if not FLAGS.coordinator:
        use_every_core(config.members)
    else:
        jax.distributed.initialize(FLAGS.coordinator, FLAGS.processes, FLAGS.process)
    from train import run

    started = time.monotonic()
    limit = FLAGS.minutes * 60

    def until() -> bool:
        return bool(limit) and time.monotonic() - started > limit

    try:
        if FLAGS.dry_run:
            run.dry_run(config)
        else:
            run.run(config, Path(FLAGS.out), resume=FLAGS.resume, until=until,
                    checkpoint_seconds=60 * FLAGS.checkpoint_minutes,
                    validate_every=FLAGS.validate_every)
    except ValueError as error:
        print(f"python -m train: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    use_large_pages("train")
    _define_config_flags()
    app.run(lambda argv: sys.exit(main(argv)))
