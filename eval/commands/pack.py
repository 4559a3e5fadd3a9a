"""Pack the results of a store: `python -m eval pack --store FOLDER`.

Files of single runs become one file for each network, with a line for each run. A store finds
packed results as it finds those of single runs. It may be run as often as one wants, and beside
programs that use the store.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from eval.commands import cli
from eval.runs import packed

OPTIONS = flags.FlagValues()
cli.define_store(OPTIONS)
cli.define_json(OPTIONS)


def main(argv: list[str]) -> None:
    """The command line."""
    cli.no_arguments(argv)
    folder = Path(OPTIONS.store)
    if not folder.is_dir():
        raise cli.UsageError(f"--store: there is no folder {OPTIONS.store!r}")
    counts = packed.pack(folder)
    if OPTIONS.json:
        cli.print_json(counts)
        return
    for name, count in counts.items():
        print(f"{folder / name}: {count} results")
    if not counts:
        print(f"{folder}: no single results")
