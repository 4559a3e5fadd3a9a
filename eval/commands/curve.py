"""Draw a meta-training run: `python -m eval curve RUN [flags]`, RUN the folder of the run.

The meta-objective and the meta-validation, from its log.jsonl, over meta-steps and over minutes
spent in them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from eval.commands import cli
from train import log

OPTIONS = flags.FlagValues()
flags.DEFINE_string("out", "curve.png", "Picture to write.", flag_values=OPTIONS)
cli.define_json(OPTIONS)

VALIDATION = {"curve": "mean over the runs", "score": "score", "end": "at their ends"}


def smooth(values: np.ndarray, reach: int) -> np.ndarray:
    """(N,) means over the values at most `reach` away."""
    return np.array([
        np.mean(values[max(i - reach, 0):i + reach + 1]) for i in range(len(values))])


def plot(records: list[dict[str, Any]], path: str) -> None:
    """Draw at least one logged meta-step."""
    from eval.figures import pictures

    step = np.array([record["step"] for record in records])
    minutes = np.cumsum([record["seconds"] for record in records]) / 60
    loss = np.array([np.mean(list(record["losses"].values())) for record in records])
    mean = smooth(loss, len(loss) // 20)
    validated = [i for i, record in enumerate(records) if "validation" in record]
    figure, axes = pictures.panels(2, 2, sharex="col", sharey="row")
    colours = dict(zip(VALIDATION, (pictures.BLUE, pictures.VERMILION, pictures.GREEN)))
    for column, x in enumerate((step, minutes)):
        axes[0, column].plot(x, loss, ".", color=pictures.GREY, markersize=3, alpha=0.5)
        axes[0, column].plot(x, mean, color=pictures.BLUE)
        for name, colour in colours.items():
            values = [records[i]["validation"][name] for i in validated]
            axes[1, column].plot(x[validated], values, ".-", color=colour)
            if column and validated:
                pictures.label(axes[1, 1], VALIDATION[name], x[validated[-1]], values[-1], colour)
    pictures.label(axes[0, 1], "running mean", minutes[-1], mean[-1], pictures.BLUE)
    if not validated:
        axes[1, 0].text(0.5, 0.5, "no validation yet", transform=axes[1, 0].transAxes, ha="center")
    axes[0, 0].set_ylabel("meta-objective")
    axes[1, 0].set_ylabel("meta-validation")
    axes[1, 0].set_xlabel("meta-steps")
    axes[1, 1].set_xlabel("minutes of meta-steps")
    pictures.save(figure, path)


def main(argv: list[str]) -> None:
    """The command line."""
    if len(argv) != 2:
        raise cli.UsageError(f"give one RUN, the folder of a meta-training run; got {argv[1:]}")
    records = log.read(Path(argv[1]))
    if not records:
        raise cli.UsageError(
            f"RUN must be a folder with a {log.NAME} of `python -m train`, with a meta-step in it; "
            f"got {argv[1]!r}")
    plot(records, OPTIONS.out)
    scores = [
        (record["validation"]["score"], record["step"])
        for record in records if "validation" in record]
    best, at = min(scores, default=(None, None))
    report = {
        "meta_steps": records[-1]["step"],
        "minutes": round(sum(record["seconds"] for record in records) / 60, 1),
        "best_validation": best, "best_validation_step": at}
    if OPTIONS.json:
        cli.print_json(report)
        return
    print(f"{json.dumps(report)}\npicture: {OPTIONS.out}")
