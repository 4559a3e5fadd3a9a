"""The learned optimizer, untuned, beside the best tuned hand-designed ones.

For each network and number of steps: the final training loss (median over seeds), its ratio to the
best tuned one's, and the speed-up: how many times fewer steps it took to get there. Tuned results
come from --baselines or, where that has none, from a search in --store.
"""

from __future__ import annotations

import math
from pathlib import Path
from statistics import median
from typing import Any

from absl import flags

from eval.commands import cli, pages
from eval.runs import grid_search, networks, optimizers
from eval.runs.results import Result, final_loss, shown
from eval.runs.run import Run
from eval.runs.store import Store, write_json, write_text

OPTIONS = flags.FlagValues()
flags.DEFINE_list("weights", ["default"], "Names or paths of weights.", flag_values=OPTIONS)
flags.DEFINE_list("networks", list(networks.PAPER), f"Some of {', '.join(networks.NETWORKS)}.",
                  flag_values=OPTIONS)
flags.DEFINE_list("steps", ["1000", "10000"], "Numbers of training steps.", flag_values=OPTIONS)
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds.", flag_values=OPTIONS)
flags.DEFINE_string("baselines", str(grid_search.BASELINES), "Folder that `tune --save` wrote.",
                    flag_values=OPTIONS)
flags.DEFINE_bool("search", True, "Search for what --baselines has not; else leave it out.",
                  flag_values=OPTIONS)
flags.DEFINE_string("out", None, "Folder for table.md and table.json.", flag_values=OPTIONS)
cli.define_data_dir(OPTIONS)
cli.define_store(OPTIONS)
cli.define_json(OPTIONS)


def tuned(network: str, steps: int, store: Store, seeds: list[int], baselines: str | Path,
          search: bool = True) -> list[grid_search.Record]:
    """The best of every hand-designed optimizer and schedule, from `baselines` if it is there, else
    after a `search` (if not, it is left out).

    Raises:
        cli.UsageError: nothing is there, and nothing is to be searched.
    """
    known = {
        (record["optimizer"], record["schedule"]): record
        for record in grid_search.known(network, steps, store.data, baselines)
    }
    if not (search or known):
        raise cli.UsageError(
            f"--nosearch: {baselines} has no results of {network} over {steps} steps")
    return [
        known.get((optimizer, schedule))
        or grid_search.best(network, optimizer, schedule, steps, store, seeds=seeds)
        for optimizer in optimizers.BASELINES for schedule in optimizers.SCHEDULES
        if search or (optimizer, schedule) in known
    ]


def compare(results: list[Result], target: float) -> dict[str, float | None]:
    """One learned optimizer's results over seeds, against the loss that a tuned one ends with.

    Returns:
        The median final `loss`, its `ratio` to the target, and `speed_up`: the number of steps over
        the first point of the median curve at or below the target. None where a run diverged, and
        for a target that was not reached.
    """
    loss = median(map(final_loss, results))
    curves = [dict(map(tuple, result["curve"])) for result in results]
    steps = results[0]["steps"]
    reached = [
        step for step in sorted(set().union(*curves))
        if median(curve.get(step, math.inf) for curve in curves) <= target
    ]
    return {
        "loss": loss if math.isfinite(loss) else None,
        "ratio": loss / target if math.isfinite(loss) else None,
        "speed_up": steps / reached[0] if reached else None,
    }


def row(network: str, steps: int, weights: list[str], store: Store, seeds: list[int],
        baselines: str | Path, search: bool = True) -> dict[str, Any]:
    """One row of the table, after running what is missing."""
    records = tuned(network, steps, store, seeds, baselines, search)
    best = min(records, key=lambda record: _or_infinity(record["loss"]))
    keys = ("optimizer", "schedule", "learning_rate", "loss", "losses", "test_accuracy")
    return {
        "network": network, "steps": steps, "best": {key: best[key] for key in keys},
        "tuned": [{key: record[key] for key in keys} for record in records],
        "learned": {
            name: compare(
                store.results([Run(network, optimizers.LEARNED, steps, weights=name, seed=seed)
                               for seed in seeds], f"{network} {name} {steps}"),
                _or_infinity(best["loss"]))
            for name in weights
        },
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as two tables: the learned optimizers' results, and all that were tuned."""
    weights = list(rows[0]["learned"])
    header = ["network", "steps", "best tuned"]
    for name in weights:
        header += [name, "ratio", "speed-up"]
    lines = []
    for r in rows:
        best = f"{shown(r['best']['loss'])} {_name(r['best'])}"
        cells = [r["network"], f"{r['steps']:,}", best]
        for name in weights:
            learned = r["learned"][name]
            cells += [shown(learned["loss"]), shown(learned["ratio"], ".2f"),
                      shown(learned["speed_up"], ".1f", "not reached")]
        lines.append(cells)
    by_search = [{(s["optimizer"], s["schedule"]): s for s in r["tuned"]} for r in rows]
    searches = list(dict.fromkeys(search for searched in by_search for search in searched))
    tuned_lines = [
        [r["network"], f"{r['steps']:,}"] + [
            f"{shown(searched[s]['loss'])} ({searched[s]['learning_rate']:g})"
            if s in searched else "not searched" for s in searches]
        for r, searched in zip(rows, by_search)]
    return "\n".join([
        pages.table(header, lines), "",
        "Tuned, each at its best learning rate (in brackets):", "",
        pages.table(["network", "steps", *map(" ".join, searches)], tuned_lines)])


def _name(record: dict[str, Any]) -> str:
    return f"({record['optimizer']} {record['schedule']}, {record['learning_rate']:g})"


def _or_infinity(loss: float | None) -> float:
    return math.inf if loss is None else loss


def main(argv: list[str]) -> None:
    """The command line."""
    cli.no_arguments(argv)
    names = cli.choices(OPTIONS, "networks", networks.NETWORKS)
    steps = cli.integers(OPTIONS, "steps", 1)
    seeds = cli.integers(OPTIONS, "seeds", 0)
    for weights in OPTIONS.weights:
        cli.check_weights(weights)
    store = Store(OPTIONS.store, cli.load_data(OPTIONS))
    rows = [row(name, count, OPTIONS.weights, store, seeds, OPTIONS.baselines, OPTIONS.search)
            for name in names for count in steps]
    if OPTIONS.out:
        folder = Path(OPTIONS.out)
        write_json(folder / "table.json", rows)
        write_text(folder / "table.md", markdown(rows) + "\n")
    if OPTIONS.json:
        cli.print_json(rows)
    else:
        print(markdown(rows))
