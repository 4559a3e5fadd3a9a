"""One of the paper's figures: `python -m eval figure N [flags]`, N one of 2, 3, 4a, 4b, 5, 6, 7,
`generalisation`, which goes beyond the paper, or `switch`, of another one.

Runs what is missing in the store, and writes the figure as PNG and SVG, and as JSON with all
numbers in it. --budget says how much is computed: smoke takes about a minute, small about an hour
for all figures together on two idle cores, full is as in the paper. A program that is killed goes
on where it was when it is started again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import rich
import rich.table
from absl import flags

from eval.commands import cli
from eval.figures import FIGURES, module
from eval.figures.context import BUDGETS, Context
from eval.runs.store import write_json

OPTIONS = flags.FlagValues()


def define_flags(options: flags.FlagValues, out: str) -> None:
    """Add the flags that figures take."""
    flags.DEFINE_enum("budget", "small", list(BUDGETS), "How much is computed.",
                      flag_values=options)
    flags.DEFINE_string("data_dir", None, "Folder of the four MNIST files, as downloaded. Without "
                        "it, scikit-learn's digits take their place.", flag_values=options)
    flags.DEFINE_string("imagenet_dir", None, "Where TFDS has prepared imagenet2012, for figure "
                        "4b. Without it, generated images take its place.", flag_values=options)
    flags.DEFINE_list("weights", ["paper", "default"], "Names or paths of learned optimizers' "
                      "weights; the verdict is on the first.", flag_values=options)
    flags.DEFINE_integer("processes", os.cpu_count() or 1, "Runs at a time.", lower_bound=1,
                         flag_values=options)
    flags.DEFINE_string("out", out, "Folder for the figures.", flag_values=options)
    cli.define_store(options)
    options.set_default("store", "runs/figures")
    cli.define_json(options)


define_flags(OPTIONS, "runs/figures")


def context(options: flags.FlagValues) -> Context:
    """What the flags ask for.

    Raises:
        UsageError: if there are no such weights or data, or Keras is not on JAX.
    """
    cli.need_jax()
    if not options.weights:
        raise cli.UsageError("--weights must name some")
    for name in options.weights:
        cli.check_weights(name)
    try:
        return Context(options.budget, options.data_dir, options.store, options.processes,
                       {Path(name).stem: name for name in options.weights},
                       options.imagenet_dir)
    except ValueError as error:
        raise cli.UsageError(f"--data_dir: {error}") from None


def make(figure: str, given: Context, options: flags.FlagValues) -> dict[str, Any]:
    """Measure and draw one of `FIGURES`, into three files in `--out`; gives what the JSON holds."""
    from eval.figures import pictures

    of = module(figure)
    given.seconds.clear()
    measured = of.measure(given)
    budget = given.budget
    record = {
        "figure": figure, "title": of.TITLE, "claim": of.CLAIM, "budget": options.budget,
        "command": command(figure, options), "weights": ", ".join(map(weights, options.weights)),
        "data": f"{len(given.images.y_train):,} images of "
                f"{'MNIST' if options.data_dir else 'scikit-learn digits'}",
        "seeds": list(budget.seeds), "grid_seeds": list(budget.grid_seeds),
        "rates": list(budget.rates), **measured,
        "runs": len(given.seconds), "seconds": round(sum(given.seconds.values()), 1),
    }
    path = Path(options.out) / f"figure_{figure}.json"
    pictures.save(of.draw(record), path.with_suffix(".png"), vector=True)
    write_json(path, record)
    return record


def command(figure: str, options: flags.FlagValues) -> str:
    """The command that gives the same numbers."""
    parts = [f"python -m eval figure {figure} --budget {options.budget}"]
    if options.data_dir:
        parts.append("--data_dir MNIST")
    if options["weights"].present:
        parts.append(f"--weights {','.join(options.weights)}")
    return " ".join(parts)


def weights(name: str) -> str:
    """Weights by name and content."""
    from eval.runs.run import weights_checksum

    return f"{Path(name).name} (SHA-256 {weights_checksum(name)}...)"


def main(argv: list[str]) -> None:
    """The command line."""
    if len(argv) != 2 or argv[1] not in FIGURES:
        raise cli.UsageError(
            f"give one figure of {', '.join(FIGURES)}; got {' '.join(argv[1:]) or 'nothing'}")
    with context(OPTIONS) as given:
        record = make(argv[1], given, OPTIONS)
    if OPTIONS.json:
        cli.print_json(record)
        return
    table = rich.table.Table(*record["table"]["header"], title=record["title"])
    for row in record["table"]["rows"]:
        table.add_row(*map(str, row))
    rich.print(table)
    print(f"{record['verdict']['sentence']}\npictures: "
          f"{OPTIONS.out}/figure_{argv[1]}.png and .svg")
