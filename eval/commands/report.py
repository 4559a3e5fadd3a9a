"""All figures on one page: `python -m eval report [flags]`.

Makes the figures as `python -m eval figure` does, and writes report.md and report.html (all in one
file) from all that are in --out: each with its table, command, seeds and time, the paper's claim
beside what was measured, and whether it holds. Pages that `python -m eval compare`, `ablate` and
`accuracy` wrote there are in it too. `--figures=` makes none, and only writes the pages.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from markdown import Markdown

from eval.commands import cli, figure, pages
from eval.figures import FIGURES
from eval.runs.store import write_text

OPTIONS = flags.FlagValues()
flags.DEFINE_list("figures", list(FIGURES), "Those to make.", flag_values=OPTIONS)
figure.define_flags(OPTIONS, "eval/report")

# Of other commands; their pages come after the figures.
OTHERS = ("compare", "ablate", "accuracy")

HOLDS = {True: "It holds.", False: "It does not hold.", None: "It cannot be told."}
SMOKE = "Made with the budget smoke: a check of the program, not a measurement."


def read(folder: Path) -> list[dict[str, Any]]:
    """What is known of the figures in a folder, in the paper's order."""
    paths = [folder / f"figure_{name}.json" for name in FIGURES]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def others(folder: Path) -> list[str]:
    """The pages of other commands in a folder, as Markdown, their headings a level below."""
    paths = [folder / f"{name}.md" for name in OTHERS]
    return [re.sub(r"^(#+ )", r"#\1", path.read_text(), flags=re.MULTILINE).strip()
            for path in paths if path.exists()]


def _heading(record: dict[str, Any]) -> str:
    number = record["figure"]
    return f"Figure {number}: {record['title']}" if number[0].isdigit() else record["title"]


def _summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    return {"header": ["figure", "the paper's claim", "budget"], "rows": [
        [_heading(record), HOLDS[record["verdict"]["holds"]], record["budget"]]
        for record in records]}


def _facts(record: dict[str, Any]) -> dict[str, str]:
    """How the figure came about."""
    seeds = ", ".join(map(str, record["seeds"]))
    if record["rates"]:
        seeds += (f" (learning rates searched on {', '.join(map(str, record['grid_seeds']))}, "
                  f"among {', '.join(f'{rate:g}' for rate in record['rates'])})")
    return {
        "Budget": record["budget"], "Data": record["data"], "Weights": record["weights"],
        "Seeds": seeds,
        "Time": f"{record['runs']:,} runs of {record['seconds'] / 60:.1f} minutes in all, each in "
                "one process"}


def _missing(records: list[dict[str, Any]]) -> list[str]:
    made = {record["figure"] for record in records}
    return [name for name in FIGURES if name not in made]


INTRODUCTION = (
    "The experiments of Wichrowska et al., \"Learned Optimizers that Scale and Generalize\" (ICML "
    "2017), one beyond them, and those of another paper on a greedy switch; then, where they were "
    "run, today's baselines, what the parts of the rule are worth, and test accuracy. What the "
    "weights were trained on, if on anything, is on their card in hrnn_opt/pretrained. Lines are "
    "medians over seeds or instances, shades reach from the first quartile to the third. Tuned "
    "optimizers are shown at the best constant learning rate of the search (in brackets in the "
    "tables); untuned ones, the learned one among them, as they come.")


def markdown(records: list[dict[str, Any]], added: Sequence[str] = ()) -> str:
    """The page as Markdown, which shows the pictures beside it.

    Args:
        records: of figures.
        added: pages of other commands.
    """
    parts = ["# The paper's experiments", INTRODUCTION, pages.table(**_summary(records))]
    if _missing(records):
        parts.append(f"Not made: {', '.join(_missing(records))}.")
    for record in records:
        name = f"figure_{record['figure']}"
        parts += [
            f"## {_heading(record)}",
            *([f"*{SMOKE}*"] if record["budget"] == "smoke" else []),
            f"The paper: {record['claim']}",
            f"**{HOLDS[record['verdict']['holds']]}** {record['verdict']['sentence']}",
            f"![{_heading(record)}]({name}.png)",
            pages.table(**record["table"]),
            f"```\n{record['command']}\n```",
            "\n".join(f"- {key}: {value}" for key, value in _facts(record).items()),
        ]
    return "\n\n".join([*parts, *added]) + "\n"


STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:62em;margin:2em auto;padding:0 1em;"
    "color:#222;background:#fff}img{max-width:100%}table{border-collapse:collapse;font-size:14px;"
    "display:block;overflow-x:auto}td,th{border-bottom:1px solid #ccc;padding:.25em .7em;"
    "text-align:left}pre{background:#f4f4f4;padding:.6em;overflow-x:auto}"
    "li{font-size:14px}em{color:#a33}")


def page(text: str, folder: Path) -> str:
    """The page as HTML that needs no other file.

    Args:
        text: as Markdown.
        folder: where the pictures are that it shows.
    """
    body = Markdown(extensions=["tables", "fenced_code"]).convert(text)
    for picture in folder.glob("*.png"):
        coded = base64.b64encode(picture.read_bytes()).decode()
        body = body.replace(f'src="{picture.name}"', f'src="data:image/png;base64,{coded}"')
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>The paper\'s '
            f"experiments</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n")


def main(argv: list[str]) -> None:
    """The command line."""
    cli.no_arguments(argv)
    wanted = cli.choices(OPTIONS, "figures", FIGURES) if OPTIONS.figures else []
    if wanted:
        with figure.context(OPTIONS) as given:
            for name in wanted:
                figure.make(name, given, OPTIONS)
    folder = Path(OPTIONS.out)
    records = read(folder)
    if not records:
        raise cli.UsageError(f"--out has no figures, and --figures names none; got {folder}")
    text = markdown(records, others(folder))
    write_text(folder / "report.md", text)
    write_text(folder / "report.html", page(text, folder))
    if OPTIONS.json:
        cli.print_json([
            {key: record[key] for key in ("figure", "budget", "verdict")} for record in records])
        return
    for record in records:
        print(f"{_heading(record)}: {HOLDS[record['verdict']['holds']]} "
              f"{record['verdict']['sentence']}")
    print(f"pages: {folder}/report.md and report.html")
