"""Pages that commands write: tables in Markdown, and the three files of a report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from eval.commands import cli
from eval.runs.store import write_json, write_text


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def publish(
    name: str, record: Any, page: str, plot: Callable[[Any, Path], None], options: flags.FlagValues,
) -> None:
    """Write NAME.json, NAME.md and NAME.png to --out, and print the page, or JSON with --json.

    Args:
        name: of the files.
        record: what JSON has.
        page: in Markdown.
        plot: draws the record into the file of a path.
        options: the command's, with `out` and `json`.
    """
    out = Path(options.out)
    write_json(out / f"{name}.json", record)
    write_text(out / f"{name}.md", page)
    plot(record, out / f"{name}.png")
    if options.json:
        cli.print_json(record)
    else:
        print(page)
