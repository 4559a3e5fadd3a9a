"""The paper's experiments, benchmarks and checks: `python -m eval COMMAND [flags]`.

    python -m eval COMMAND --help    what a command does, and its flags

"""

from __future__ import annotations

import importlib
import os
import sys

from absl import flags

from eval.commands import cli

# A command is a line here and a module of `eval.commands` with `main(argv)`, called as absl calls
# it: with the program's name and the arguments that are no flags. It returns the exit code, None
# for 0. Its flags are `OPTIONS`, or absl's global ones. It is imported only when it is called, so
# that none pays for another's imports.
COMMANDS = {
    "conformance": "replay recorded trajectories or problems and print the deviations",
    "mnist": "train one network on MNIST with one optimizer",
    "switch": "greedy switches beside each of their candidates alone",
    "tune": "search the learning rates of hand-designed optimizers",
    "table": "the learned optimizer beside the best tuned ones",
    "compare": "weights beside the baselines of today, tuned and untuned: time to a target",
    "accuracy": "test accuracy with weight decay, a moving average, and early stopping",
    "ablate": "`rule` with each of its parts off beside the whole, on tasks that it never saw",
    "learned": "weights beside those they started from, on tasks that they never saw",
    "robustness": "train from many learning rates: does it ever diverge?",
    "figure": "one of the paper's figures",
    "report": "all figures on one page",
    "benchmark": "throughput of meta-training, time of training steps",
    "curve": "a picture of a meta-training run from its log",
    "lengths": "a picture of the lengths that meta-training draws",
    "dynamics": "a picture of the learning rates that the learned optimizer chose in a run",
    "pack": "the results of a store in one file for each network",
    "soak": "train for very long, killed at random, and watch memory and numbers",
    "convert": "turn weights into another form, the released program's checkpoints too",
    "imagenet": "train an image classifier on all devices, on ImageNet or other images",
    "quickstart": "a small convnet on real digits, HierarchicalLOpt beside Adam",
}


def usage() -> str:
    """The help of the program: its docstring and the commands."""
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"    {name:<{width}}  {summary}" for name, summary in COMMANDS.items())
    return f"{__doc__.strip()}\n\ncommands:\n{listing}"


def main(arguments: list[str]) -> int:
    """Run the command that the arguments name; the exit code is 2 where they cannot be used."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"error: there is no command {name!r}; there are {', '.join(COMMANDS)}",
              file=sys.stderr)
        return 2
    os.environ.setdefault("KERAS_BACKEND", "jax")
    command = importlib.import_module(f"eval.commands.{name}")
    options = getattr(command, "OPTIONS", flags.FLAGS)
    if "json" not in options:
        cli.define_json(options)
    program = f"python -m eval {name}"
    if any(argument in ("-h", "--help") for argument in rest):
        print(f"{command.__doc__.strip()}\n\nflags of {program}:\n{cli.flag_help(options)}")
        return 0
    try:
        return command.main(cli.parse([program, *rest], options)) or 0
    except cli.UsageError as error:
        print(f"error: {error}\n(see {program} --help)", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
