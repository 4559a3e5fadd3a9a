"""Draw the lengths of heavy-tailed meta-training runs beside the specified distributions.

A run shall have round(Exp(40)) + 1 truncations, each of round(Exp(200)) + 50 inner steps (the
released program's). What is drawn comes from the code that meta-training uses.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import rich
import rich.table
from absl import flags

from eval.commands import cli
from train.config import TrainConfig
from train.lengths import horizons, segments

OPTIONS = flags.FlagValues()
flags.DEFINE_string("out", "lengths.png", "Picture to write.", flag_values=OPTIONS)
flags.DEFINE_integer("draws", 100_000, "Runs, and as many truncations.", lower_bound=100,
                     flag_values=OPTIONS)
flags.DEFINE_integer("unroll", 50, "As in meta-training.", lower_bound=1, flag_values=OPTIONS)
cli.define_json(OPTIONS)


@dataclasses.dataclass
class Lengths:
    """A sample of each quantity.

    Attributes:
        truncations: (N,) in a run.
        truncation_steps: (T,) inner steps of a truncation.
        run_steps: (N,) inner steps of a run.
    """

    truncations: np.ndarray
    truncation_steps: np.ndarray
    run_steps: np.ndarray


TITLES = {
    "truncations": "truncations in a run", "truncation_steps": "inner steps in a truncation",
    "run_steps": "inner steps in a run"}


def drawn(config: TrainConfig, draws: int) -> Lengths:
    """What meta-training draws: runs that begin anywhere in its sequence of truncations."""
    steps = config.unroll * np.array([segments(config, step) for step in range(draws)])
    wanted = np.asarray(horizons(
        jax.random.key(config.seed), dataclasses.replace(config, models=draws)), np.int64)
    # The sequence over and over, so that the longest run has an end.
    times = 2 + wanted.max() // steps.sum()
    done = np.concatenate([[0], np.cumsum(np.tile(steps, times))])
    first = np.random.default_rng(config.seed).integers(len(steps), size=draws)
    last = np.searchsorted(done, done[first] + wanted)
    return Lengths(last - first, steps, done[last] - done[first])


def specified(draws: int, seed: int = 1) -> Lengths:
    """What the specification says, sampled directly."""
    rng = np.random.default_rng(seed)
    truncations = np.round(rng.exponential(40.0, draws)).astype(int) + 1
    steps = np.round(rng.exponential(200.0, truncations.sum())).astype(int) + 50
    ends = np.cumsum(truncations)
    return Lengths(truncations, steps, np.add.reduceat(steps, ends - truncations))


def _edges(grain: int, highest: int) -> np.ndarray:
    """Bounds of bins that widen as their numbers do, between whole multiples of `grain`."""
    inner = np.unique(np.round(np.geomspace(1, highest / grain + 1, 40)))
    return grain * np.concatenate([[0.5], inner + 0.5])


def plot(ours: Lengths, theirs: Lengths, unroll: int, path: str) -> None:
    """Draw both histograms of each quantity, on log axes."""
    from eval.figures import pictures

    figure, axes = pictures.panels(1, len(TITLES))
    for axis, (name, title) in zip(axes[0], TITLES.items()):
        ours_here, theirs_here = getattr(ours, name), getattr(theirs, name)
        grain = 1 if name == "truncations" else unroll
        edges = _edges(grain, max(ours_here.max(), theirs_here.max()))
        densities = [
            np.histogram(sample, edges)[0] / np.diff(edges) / sample.size
            for sample in (ours_here, theirs_here)]
        axis.stairs(densities[0], edges, fill=True, color=pictures.BLUE, alpha=0.35)
        middles = np.sqrt(edges[1:] * edges[:-1])
        # No further than where our sample, too, should have some.
        seen = densities[1] * np.diff(edges) * ours_here.size >= 1
        axis.plot(middles[seen], densities[1][seen], color=pictures.VERMILION, linewidth=1.5)
        axis.set(xscale="log", yscale="log", xlabel=title,
                 title=f"mean {ours_here.mean():,.0f}, specified {theirs_here.mean():,.0f}")
        axis.title.set_fontsize(10)
    axes[0, 0].set_ylabel("probability density")
    for text, height, colour in (
        ("specified", 0.28, pictures.VERMILION), ("drawn by our code", 0.18, pictures.BLUE),
    ):
        axes[0, 0].text(0.08, height, text, color=colour, transform=axes[0, 0].transAxes)
    pictures.save(figure, path)


def main(argv: list[str]) -> None:
    """The command line."""
    cli.no_arguments(argv)
    config = TrainConfig(heavy_tailed=True, run_length="exponential", unroll=OPTIONS.unroll)
    ours, theirs = drawn(config, OPTIONS.draws), specified(OPTIONS.draws)
    plot(ours, theirs, OPTIONS.unroll, OPTIONS.out)
    report = {
        name: {who: {
            "mean": float(getattr(sample, name).mean()),
            "1 in 1000 is above": float(np.quantile(getattr(sample, name), 0.999)),
        } for who, sample in (("drawn", ours), ("specified", theirs))} for name in TITLES}
    if OPTIONS.json:
        cli.print_json(report)
        return
    table = rich.table.Table("", "mean", "specified", "1 in 1000 is above", "specified")
    for name, title in TITLES.items():
        table.add_row(title, *(
            f"{report[name][who][figure]:,.0f}"
            for figure in ("mean", "1 in 1000 is above") for who in ("drawn", "specified")))
    rich.print(table)
    print(f"picture: {OPTIONS.out}")
