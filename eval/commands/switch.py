"""Greedy switches, untuned, beside each of their candidates alone, Adam and the weights `rule`.

    switch_sgd           SGD at the rate 0.1 that chooses its momentum, of 0.5, 0.9, 0.99, by the
                         score of the authors
    switch_sgd_holdout   the same as it comes, by smoothed scores on gradients that were not seen
    switch_adam          Adam that chooses its beta 1, of the same
    switch_mixed         Adam, RMSProp and SGD with momentum 0.9, at Keras's own rates
    switch_rule          Adam and the weights `rule`

For each network: the final training loss (median over seeds) of the switch and of the best of its
candidates, and the ratio of the two.
"""

from __future__ import annotations

import math
from pathlib import Path
from statistics import median
from typing import Any

from absl import flags

from eval.commands import cli
from eval.runs import networks, optimizers
from eval.runs.results import final_loss, shown
from eval.runs.run import Run
from eval.runs.store import Store, write_json, write_text

OPTIONS = flags.FlagValues()
flags.DEFINE_list("networks", list(networks.PAPER), f"Some of {', '.join(networks.NETWORKS)}.",
                  flag_values=OPTIONS)
flags.DEFINE_list("switches", list(optimizers.SWITCHES),
                  f"Some of {', '.join(optimizers.SWITCHES)}.", flag_values=OPTIONS)
flags.DEFINE_list("steps", ["1000"], "Numbers of training steps.", flag_values=OPTIONS)
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds.", flag_values=OPTIONS)
flags.DEFINE_string("out", None, "Folder for switch.md and switch.json.", flag_values=OPTIONS)
cli.define_data_dir(OPTIONS)
cli.define_store(OPTIONS)
cli.define_json(OPTIONS)

# The ratio up to which a switch counts as good as its best candidate.
ABOUT = 1.1
BESIDE = ("rule", "adam")


def runs(network: str, name: str, steps: int, seeds: list[int]) -> list[Run]:
    """The runs of an optimizer, or of the weights `rule`."""
    if name == "rule":
        return [Run(network, optimizers.LEARNED, steps, weights="rule", seed=seed)
                for seed in seeds]
    return [Run(network, name, steps, seed=seed) for seed in seeds]


def rows(
    names: list[str], switches: list[str], steps: list[int], seeds: list[int], store: Store
) -> list[dict[str, Any]]:
    """A row for each network, number of steps and switch, after running what is missing."""
    found = []
    for network in names:
        for count in steps:
            needed = dict.fromkeys([
                *switches, *(one for name in switches for one in optimizers.CANDIDATES[name]),
                *BESIDE])
            losses = {
                name: median(map(final_loss, store.results(
                    runs(network, name, count, seeds), f"{network} {name}"))) for name in needed}
            for name in switches:
                alone = {one: losses[one] for one in optimizers.CANDIDATES[name]}
                best = min(alone, key=lambda one: alone[one])
                found.append({
                    "network": network, "steps": count, "switch": name,
                    "loss": _or_none(losses[name]), "best": best,
                    "candidates": {one: _or_none(loss) for one, loss in alone.items()},
                    "ratio": _or_none(losses[name] / alone[best]),
                    **{one: _or_none(losses[one]) for one in BESIDE}})
    return found


def _or_none(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None


def markdown(found: list[dict[str, Any]]) -> str:
    """The rows as a table, and on how many networks each switch is as good as its best."""
    header = ["network", "steps", "switch", "loss", "best candidate alone", "ratio", *BESIDE]
    lines = [f"| {' | '.join(header)} |", f"| {' | '.join(['---'] * len(header))} |"]
    for row in found:
        lines.append(" | ".join([
            f"| {row['network']}", f"{row['steps']:,}", row["switch"], shown(row["loss"]),
            f"{shown(row['candidates'][row['best']])} ({row['best']})",
            shown(row["ratio"], ".2f"), *(shown(row[name]) for name in BESIDE)]) + " |")
    lines.append("")
    for name in dict.fromkeys(row["switch"] for row in found):
        of_one = [row for row in found if row["switch"] == name]
        good = sum(row["ratio"] is not None and row["ratio"] <= ABOUT for row in of_one)
        lines.append(f"- {name}: at most {ABOUT} times its best candidate on {good} of "
                     f"{len(of_one)}.")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """The command line."""
    cli.no_arguments(argv)
    names = cli.choices(OPTIONS, "networks", networks.NETWORKS)
    switches = cli.choices(OPTIONS, "switches", optimizers.SWITCHES)
    steps = cli.integers(OPTIONS, "steps", 1)
    seeds = cli.integers(OPTIONS, "seeds", 0)
    store = Store(OPTIONS.store, cli.load_data(OPTIONS))
    found = rows(names, switches, steps, seeds, store)
    if OPTIONS.out:
        folder = Path(OPTIONS.out)
        write_json(folder / "switch.json", found)
        write_text(folder / "switch.md", markdown(found) + "\n")
    if OPTIONS.json:
        cli.print_json(found)
    else:
        print(markdown(found))
