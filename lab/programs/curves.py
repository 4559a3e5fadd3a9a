"""Curves of meta-training runs, kept where their logs are not:
`python -m lab.programs.curves NAME=FOLDER ...` puts the run in FOLDER, which `python -m train`
wrote, into `lab/curves.csv` under this name, beside those that are there, and draws all of them.

A row is of 50 meta-steps: means of the meta-objective and of the signal (the norm of the members'
mean meta-gradient over the mean of their norms), and the score on the validation networks where
there is one.
"""

import csv
import math
import sys
from pathlib import Path

import numpy as np

from train import log

EVERY = 50
COLUMNS = ("run", "meta_step", "meta_objective", "signal", "validation")
FOLDER = Path(__file__).parents[1]


def rows(name: str, folder: str) -> list[dict[str, str]]:
    """Those of one run."""
    records = log.read(Path(folder))
    found = []
    for last in range(EVERY, records[-1]["step"] + 1, EVERY):
        some = [record for record in records if last - EVERY < record["step"] <= last]
        objectives = [
            loss for record in some for loss in record["losses"].values() if math.isfinite(loss)]
        scores = [record["validation"]["score"] for record in some if "validation" in record]
        found.append(dict(zip(COLUMNS, (
            name, str(last), f"{np.mean(objectives):.3f}",
            f"{np.mean([record['signal'] for record in some]):.3f}",
            f"{scores[-1]:.3f}" if scores else ""))))
    return found


def draw(found: list[dict[str, str]], path: Path) -> None:
    """A panel for each column, a line for each run."""
    from eval.figures import pictures

    names = list(dict.fromkeys(row["run"] for row in found))
    figure, axes = pictures.panels(1, 3, width=4.0, height=3.2, sharex=True)
    for axis, column in zip(axes.flat, COLUMNS[2:]):
        for name in names:
            points = [(int(row["meta_step"]), float(row[column])) for row in found
                      if row["run"] == name and row[column]]
            axis.plot(*zip(*points), label=name, linewidth=1.2)
        axis.set(title=column.replace("_", "-"), xlabel="meta-steps")
    axes.flat[-1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    pictures.save(figure, path)


def main(*named: str) -> None:
    """Write the table and the picture."""
    table = FOLDER / "curves.csv"
    new = dict(one.split("=", 1) for one in named)
    old = []
    if table.exists():
        with table.open(newline="") as file:
            old = [row for row in csv.DictReader(file) if row["run"] not in new]
    found = [*old, *(row for name, folder in new.items() for row in rows(name, folder))]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    draw(found, FOLDER / "curves.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
