"""What the commands share: parsing of their flags, and where results are printed.

Every command has a `FlagValues` of its own, so that two may have flags of the same name and help
shows no flag that the command does not have.
"""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any

from absl import flags

from eval.runs.data import Data, load

if TYPE_CHECKING:
    from hrnn_opt import Pretrained


class UsageError(Exception):
    """Arguments that cannot be used; the program prints the reason and exits with 2."""


def parse(argv: list[str], options: flags.FlagValues) -> list[str]:
    """Set a command's flags from its arguments.

    Args:
        argv: the program's name and the arguments.
        options: the command's flags.

    Returns:
        The program's name and the arguments that are no flags.

    Raises:
        UsageError: at an unknown flag, or a bad or missing value.
    """
    options.unparse_flags()
    try:
        return options(argv)
    except flags.Error as error:
        raise UsageError(error) from None


def no_arguments(argv: list[str]) -> None:
    """For commands that take flags only: raises UsageError if there is anything else."""
    if argv[1:]:
        raise UsageError(f"unexpected argument {argv[1]!r}")


def flag_help(options: flags.FlagValues) -> str:
    """A line for each flag, without those that absl adds."""
    lines = []
    for module, module_flags in options.flags_by_module_dict().items():
        if module.startswith("absl."):
            continue
        for flag in module_flags:
            default = "" if flag.default is None else f" (default: {flag.default_as_str})"
            lines.append(f"  --{flag.name}: {flag.help}{default}")
    return "\n".join(sorted(lines))


def define_data_dir(options: flags.FlagValues) -> None:
    """Add `--data_dir`."""
    flags.DEFINE_string(
        "data_dir", None, "Folder of the four MNIST files, as downloaded (IDX, plain or gzip).",
        required=True, flag_values=options)


def need_jax() -> None:
    """Raises UsageError if Keras is on a backend that a command is not written for."""
    import keras

    if keras.backend.backend() != "jax":
        raise UsageError("this needs KERAS_BACKEND=jax")


def load_data(options: flags.FlagValues) -> Data:
    """The data in `--data_dir`, for training runs.

    Raises:
        UsageError: if the files are not there, or are no such files.
    """
    try:
        return load(options.data_dir)
    except ValueError as error:
        raise UsageError(f"--data_dir: {error}") from None


def check_weights(weights: str | None) -> Pretrained:
    """The weights of that name or path; None stands for the learned optimizer's own.

    Raises:
        UsageError: there are no such weights.
    """
    from hrnn_opt.files.resolve import resolve

    try:
        return resolve(weights or "default")
    except ValueError as error:
        raise UsageError(error) from None


def define_json(options: flags.FlagValues) -> None:
    """Add `--json`."""
    flags.DEFINE_bool(
        "json", False, "Print JSON alone on stdout, in place of a table.", flag_values=options)


def define_store(options: flags.FlagValues) -> None:
    """Add `--store`."""
    flags.DEFINE_string(
        "store", "runs/store", "Folder of the results: a run that it holds is not run again.",
        flag_values=options)


def integers(options: flags.FlagValues, name: str, lowest: int) -> list[int]:
    """The values of a list flag as integers.

    Raises:
        UsageError: if there are none, or one is no integer or below `lowest`.
    """
    try:
        values = [int(item) for item in options[name].value]
    except ValueError:
        values = []
    if not values or min(values) < lowest:
        raise UsageError(f"--{name} must be integers of at least {lowest}, separated by commas")
    return values


def rates(options: flags.FlagValues, name: str) -> list[float]:
    """The values of a list flag as learning rates.

    Raises:
        UsageError: if there are none, or one is no positive number.
    """
    try:
        values = [float(item) for item in options[name].value]
    except ValueError:
        values = []
    if not values or not all(0 < value < math.inf for value in values):
        raise UsageError(f"--{name} must be positive numbers, separated by commas")
    return values


def choices(options: flags.FlagValues, name: str, known: Any) -> list[str]:
    """The values of a list flag, each of them one of `known`.

    Raises:
        UsageError: if there are none, or one is unknown.
    """
    values = options[name].value
    for value in values:
        if value not in known:
            raise UsageError(f"--{name}: there is no {value!r}; there are {', '.join(known)}")
    if not values:
        raise UsageError(f"--{name} must name at least one of {', '.join(known)}")
    return values


def print_json(value: Any) -> None:
    """Print JSON on stdout; raises ValueError at numbers that JSON does not have."""
    json.dump(value, sys.stdout, indent=2, allow_nan=False)
    print()
