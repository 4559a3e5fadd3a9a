"""Draw effective learning rates: `python -m eval dynamics RUN_DIR [flags]`, RUN_DIR the log_dir of
`hrnn_opt.LearningRateDynamics`.

From its event files, over training batches: a curve for each tensor, and all of them as a map from
the model's first tensor at the top to its last. The rate of a tensor is the median over its
parameters. With --beside, the log_dir of `eval.runs.step_sizes.StepSizes` in a run of the same
model with Adam, say, also the steps that both took: the RMS of each tensor's updates.
"""

from __future__ import annotations

import json
import posixpath
from pathlib import Path

import numpy as np
from absl import flags

from eval.commands import cli
from eval.runs.step_sizes import UPDATE
from hrnn_opt.training.dynamics import LOG_LEARNING_RATE, tag

OPTIONS = flags.FlagValues()
flags.DEFINE_string("out", "dynamics.png", "Picture to write.", flag_values=OPTIONS)
flags.DEFINE_string("beside", None, "Logs of another optimizer's steps, drawn beside.",
                    flag_values=OPTIONS)
cli.define_json(OPTIONS)

RATE = f"{LOG_LEARNING_RATE}/median"
# What fits beside the curves, and beside the map.
CURVE_LABELS, MAP_LABELS = 8, 24


def read(folder: Path, quantity: str = RATE) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The effective learning rates, or another quantity, in the event files of a folder.

    Returns:
        steps: (N,) batches that were logged, ascending; none if there are none.
        values: (N,) by tensor, in the order of the model; NaN where a tensor had none.
    """
    # It loads TensorFlow, where that is installed, which takes seconds: not for `--help`.
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    before, after = tag(quantity, "\0").split("\0")
    found: dict[str, dict[int, float]] = {}
    # A file for each call of `fit`; where they overlap, the last one counts.
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag.startswith(before) and value.tag.endswith(after):
                    tensor = value.tag.removeprefix(before).removesuffix(after)
                    number = value.simple_value
                    found.setdefault(tensor, {})[event.step] = (
                        np.exp(number) if quantity == RATE else number)
    steps = sorted({step for series in found.values() for step in series})
    return np.array(steps), {
        tensor: np.array([series.get(step, np.nan) for step in steps])
        for tensor, series in found.items()}


Series = tuple[np.ndarray, dict[str, np.ndarray]]


def plot(
    steps: np.ndarray, rates: dict[str, np.ndarray], path: str,
    beside: tuple[Series, Series] | None = None,
) -> None:
    """Draw at least one logged batch.

    Args:
        steps, rates: what `read` gives.
        path: of the picture.
        beside: the sizes of updates in this run, and in another, if they shall be drawn.
    """
    from matplotlib.colors import LogNorm

    from eval.figures import pictures

    values = np.array(list(rates.values()))
    # The name of the model is the same in all of them.
    shared = posixpath.commonpath([posixpath.dirname(name) for name in rates])
    names = [name.removeprefix(f"{shared}/") for name in rates]
    figure, (axes,) = pictures.panels(1, 3 if beside else 2, width=6.5, height=4.5)
    curves, heat = axes[:2]
    colours = pictures.sequence(len(names))
    for series, colour in zip(values, colours):
        curves.plot(steps, series, ".-", color=colour, linewidth=1, markersize=3)
    curves.set(xscale="log", yscale="log", xlabel="training batches",
               title="effective learning rate of each tensor")
    ranked = [k for k in np.argsort(values[:, -1]) if np.isfinite(values[k, -1])]
    labelled = [ranked[i] for i in spread(len(ranked), CURVE_LABELS)]
    if labelled:
        pictures.labels(
            curves, [names[k] for k in labelled], steps[-1], values[labelled, -1],
            [colours[k] for k in labelled])

    # A column reaches from the batch logged before to its own.
    first = steps[0] ** 2 / steps[1] if len(steps) > 1 else steps[0] / 2
    edges = np.concatenate([[max(first, steps[0] / 2)], steps])
    image = heat.pcolormesh(
        edges, np.arange(len(names) + 1), np.ma.masked_invalid(values), cmap=pictures.MAP,
        norm=LogNorm())
    figure.colorbar(image, ax=heat, label="effective learning rate")
    rows = range(0, len(names), -(-len(names) // MAP_LABELS))
    heat.set_yticks([k + 0.5 for k in rows], [names[k] for k in rows], fontsize=8)
    heat.invert_yaxis()
    heat.set(xscale="log", xlabel="training batches", title="from the first tensor to the last")
    if beside:
        for (batches, sizes), style in zip(beside, ("-", "--")):
            for name, colour in zip(rates, colours):
                if name in sizes:
                    axes[2].plot(batches, sizes[name], style, color=colour, linewidth=1)
        axes[2].set(xscale="log", yscale="log", xlabel="training batches",
                    title="RMS of each tensor's updates; dashed: beside")
    pictures.save(figure, path)


def spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, the first and the last among them, about evenly apart."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def main(argv: list[str]) -> None:
    """The command line."""
    if len(argv) != 2:
        raise cli.UsageError(
            f"give one RUN_DIR, the log_dir of LearningRateDynamics; got {argv[1:]}")
    steps, rates = read(Path(argv[1]))
    if not len(steps):
        raise cli.UsageError(
            "RUN_DIR must be a folder with event files of LearningRateDynamics, with a logged batch"
            f" in them; got {argv[1]!r}")
    beside = None
    if OPTIONS.beside:
        beside = read(Path(argv[1]), UPDATE), read(Path(OPTIONS.beside), UPDATE)
        if not set(beside[1][1]) & set(rates):
            raise cli.UsageError(
                "--beside must be a folder with event files of eval.runs.step_sizes.StepSizes, of "
                f"the same model; got {OPTIONS.beside!r}")
    plot(steps, rates, OPTIONS.out, beside)
    report = {
        "logged_batches": len(steps), "last_batch": int(steps[-1]),
        "last_learning_rates": {
            name: None if np.isnan(series[-1]) else float(series[-1])
            for name, series in rates.items()}}
    if OPTIONS.json:
        cli.print_json(report)
        return
    print(f"{json.dumps(report, indent=2)}\npicture: {OPTIONS.out}")
