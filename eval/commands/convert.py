"""Turn weights from one form into another: `python -m eval convert SOURCE TARGET`.

SOURCE: a checkpoint of the authors' released TensorFlow 1 program (what comes before `.index`;
needs TensorFlow), an .npz file with its variables or with those of another learned optimizer, by
their authors' names, or whatever `LearnedOpt` takes for its weights. TARGET: a weights file
(`.safetensors`), plain arrays by our names (`.npz`), or a weights folder.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from absl import flags

from eval.commands import cli
from hrnn_opt.files.atomic import write_atomic
from hrnn_opt.files.foreign import read_released
from hrnn_opt.files.resolve import resolve
from hrnn_opt.files.weights import Pretrained

OPTIONS = flags.FlagValues()
flags.DEFINE_string("card", "", "For a folder: what its reader shall know.", flag_values=OPTIONS)
cli.define_json(OPTIONS)


def read(source: str) -> Pretrained:
    """Weights from any of the forms."""
    if source.endswith(".npz") or Path(f"{source}.index").is_file():
        return read_released(source)
    return resolve(source)


def write(pretrained: Pretrained, target: Path, card: str) -> None:
    """Write any of the forms; the folder must exist."""
    if target.suffix == ".npz":
        content = io.BytesIO()
        np.savez(content, **pretrained.arrays)
        write_atomic(target, content.getvalue())
    else:
        pretrained.save(target, card)


def main(argv: list[str]) -> None:
    """The command line."""
    if len(argv) != 3:
        raise cli.UsageError(f"give a SOURCE and a TARGET; got {argv[1:]}")
    target = Path(argv[2])
    if not target.parent.is_dir():
        raise cli.UsageError(f"TARGET: there is no folder {str(target.parent)!r}")
    try:
        pretrained = read(argv[1])
    except (ValueError, ImportError) as error:
        raise cli.UsageError(f"SOURCE: {error}") from None
    write(pretrained, target, OPTIONS.card)
    report = {
        "target": str(target), "meta_parameters": sum(a.size for a in pretrained.arrays.values()),
        "config": pretrained.config.to_dict(), **pretrained.settings()}
    if OPTIONS.json:
        cli.print_json(report)
        return
    print(f"{target}: {report['meta_parameters']:,} meta-parameters")
