"""Replay what authors' released programs computed, and print the largest deviations.

Arguments: trajectory files, which are replayed on the backend in `KERAS_BACKEND`, those of the
hierarchical RNN through `HierarchicalLOpt` itself and those of other kinds through their networks;
or problem files, through `problems`. `tests/data/README.md` describes all of them. The exit code is
0 if all are reproduced, 2 if one cannot be read (the others are replayed all the same), else 1.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from absl import flags

from eval.commands import cli
from eval.conformance.recording import FormatError, read
from eval.conformance.trajectories import replay

OPTIONS = flags.FlagValues()
flags.DEFINE_list(
    "weights", [], "Files of arrays with the meta-parameters of recordings that hold none.",
    flag_values=OPTIONS)
cli.define_json(OPTIONS)


def main(argv: list[str]) -> int:
    """The command line."""
    paths = argv[1:]
    if not paths:
        raise cli.UsageError("name at least one FILE")
    # Files go by their names, those of the same name by their paths.
    names = [Path(path).name for path in paths]
    names = [name if names.count(name) == 1 else path for name, path in zip(names, paths)]
    weights = {}
    for path in OPTIONS.weights:
        try:
            weights[path] = read(path)
        except FormatError as error:
            raise cli.UsageError(f"--weights {path}: {error}") from None
    report: dict[str, dict[str, Any]] = {}
    statuses = [0]
    for name, path in zip(names, paths):
        try:
            passed, report[name] = replay(path, weights)
        except FormatError as error:
            report[name] = {"error": str(error)}
            statuses.append(2)
            print(f"{path}: {error}", file=sys.stderr)
            continue
        statuses.append(0 if passed else 1)
        if not OPTIONS.json:
            cells = "  ".join(
                f"{key} {value:.2g}" for key, value in report[name].items()
                if isinstance(value, float))
            print(f"{'pass' if passed else 'FAIL'}  {name}  {cells}")
    status = max(statuses)
    if OPTIONS.json:
        cli.print_json({"passed": not status, "files": report})
    return status
