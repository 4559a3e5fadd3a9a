"""Replay what authors' released programs computed, and print the largest deviations.

Arguments: trajectory files, which are replayed on the backend in `KERAS_BACKEND`, those of the
hierarchical RNN through `HierarchicalLOpt` itself and those of other kinds through their networks;
or problem files, through `problems`. `tests/data/README.md` describes all of them. The exit code is
0 if all are reproduced, 1 if one is not, 2 if one cannot be read.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from eval.commands import cli
from eval.conformance.recording import FormatError
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
    report = {}
    for name, path in zip(names, paths):
        try:
            passed, worst = replay(path, OPTIONS.weights)
        except FormatError as error:
            raise cli.UsageError(f"{path}: {error}") from None
        report[name] = (passed, worst)
        if not OPTIONS.json:
            cells = "  ".join(
                f"{key} {value:.2g}" for key, value in worst.items() if isinstance(value, float))
            print(f"{'pass' if passed else 'FAIL'}  {name}  {cells}")
    all_passed = all(passed for passed, _ in report.values())
    if OPTIONS.json:
        cli.print_json(
            {"passed": all_passed, "files": {name: worst for name, (_, worst) in report.items()}})
    return 0 if all_passed else 1
