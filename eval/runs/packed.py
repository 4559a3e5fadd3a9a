"""Many results in one file, which a store reads beside the files of single runs.

A packed file is a JSON object with a result a line, by the name that the single file had. Single
files are packed by the first part of their names, which of training runs is the network:
`mlp_relu-adam-...-0123456789ab.json` goes into `mlp_relu.json`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.runs.results import Result
from hrnn_opt.files.atomic import write_atomic

# The end of a single file's name, a digest; without it JSON in the folder is something else.
_SINGLE = re.compile(r".+-[0-9a-f]{12}\.json")


def path_of(single: Path) -> Path:
    """Where the result of a single file is, once it is packed."""
    return single.with_name(f"{single.name.partition('-')[0]}.json")


def read(path: Path) -> dict[str, Result]:
    """The results in a packed file, by the stems of their single files; without those that are
    damaged, and empty if there is no such file."""
    text = _text(path)
    entries = _parsed(text)
    if not entries:
        for line in text.splitlines():
            entries |= _parsed("{" + line.strip().removesuffix(",") + "}")
    return {name: value for name, value in entries.items() if isinstance(value, dict)}


def pack(folder: Path) -> dict[str, int]:
    """Move the results of single files into packed ones.

    A packed file is written before its single files are deleted: a program that is killed leaves
    each result in at least one of them. Single files that are damaged stay.

    Returns:
        How many results each packed file that was written holds, by its name.
    """
    packed: dict[Path, list[Path]] = {}
    with _alone(folder):
        for single in sorted(folder.glob("*.json")):
            if _SINGLE.fullmatch(single.name):
                packed.setdefault(path_of(single), []).append(single)
        counts = {}
        for path, singles in packed.items():
            found = {single: _parsed(_text(single)) for single in singles}
            found = {single: result for single, result in found.items() if result}
            if not found:
                continue
            results = read(path) | {single.stem: result for single, result in found.items()}
            lines = ",\n".join(
                f"{json.dumps(name)}: {json.dumps(results[name], allow_nan=False)}"
                for name in sorted(results))
            write_atomic(path, f"{{\n{lines}\n}}\n".encode())
            for single in found:
                single.unlink()
            counts[path.name] = len(results)
    return counts


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def _parsed(text: str) -> dict[str, Any]:
    """The JSON object that a text is; empty if it is none, or has numbers that JSON has not."""
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other program packs the folder meanwhile: of two, one would undo the other's work."""
    # Not on every system, and only packing needs it.
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
