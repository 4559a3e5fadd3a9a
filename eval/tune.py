"""Search the learning rates of hand-designed optimizers: the lowest final training loss, median
over seeds, is best. Results go to a store, so that only what is missing is run.

With --grid_seeds fewer than --seeds, the whole grid is run on the former, and the best rate of each
(network, optimizer, schedule, number of steps) on the others too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import keras
import numpy as np
import rich
import rich.table
from absl import flags

from eval import cli, networks, optimizers
from eval.runs import Run
from eval.store import Store, final_loss, write_text

LEARNING_RATES = (1e-4, 3.16e-4, 1e-3, 3.16e-3, 1e-2, 3.16e-2, 1e-1, 3.16e-1, 1.0)
BASELINES = Path(__file__).parent / "baselines"

OPTIONS = flags.FlagValues()
flags.DEFINE_list("networks", list(networks.PAPER), f"Some of {', '.join(networks.NETWORKS)}.",
                  flag_values=OPTIONS)
flags.DEFINE_list("optimizers", list(optimizers.BASELINES),
                  f"Some of {', '.join(optimizers.TUNED)}.", flag_values=OPTIONS)
flags.DEFINE_list("schedules", list(optimizers.SCHEDULES),
                  f"Some of {', '.join(optimizers.SCHEDULES)}.", flag_values=OPTIONS)
flags.DEFINE_list("learning_rates", [f"{rate:g}" for rate in LEARNING_RATES], "The grid.",
                  flag_values=OPTIONS)
flags.DEFINE_list("steps", ["1000"], "Numbers of training steps.", flag_values=OPTIONS)
flags.DEFINE_integer("batch_size", 64, "Examples a step.", lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds that the best rate is run on.",
                  flag_values=OPTIONS)
flags.DEFINE_list("grid_seeds", None, "Seeds that the whole grid is run on (default: all).",
                  flag_values=OPTIONS)
flags.DEFINE_string("save", None, "Folder for a summary of the best, a file for each network: "
                    f"{BASELINES.parent.name}/{BASELINES.name} is what `table` reads.",
                    flag_values=OPTIONS)
cli.define_data_dir(OPTIONS)
cli.define_store(OPTIONS)
cli.define_json(OPTIONS)

Record = dict[str, Any]


def best(network: str, optimizer: str, schedule: str, steps: int, store: Store, *,
         learning_rates: Iterable[float] = LEARNING_RATES, batch_size: int = 64,
         seeds: Iterable[int] = (0, 1, 2), grid_seeds: Iterable[int] | None = None) -> Record:
    """The best learning rate of one optimizer and what it reaches, after running what is missing.

    Returns:
        What was searched, `learning_rate`, `losses` by seed and their median `loss` (None stands
        for diverged), the median `test_accuracy`, the pointwise median `curve`, `grid`, pairs of
        learning rate and median loss over the grid's seeds, and the `command` that gives the same.
    """
    seeds = list(seeds)
    grid_seeds = seeds if grid_seeds is None else list(grid_seeds)
    title = f"{network} {optimizer} {schedule} {steps}"

    def runs(rate: float, over: list[int]) -> list[Run]:
        return [Run(network, optimizer, steps, rate, schedule, batch_size, seed) for seed in over]

    learning_rates = sorted(learning_rates)
    store.results([run for rate in learning_rates for run in runs(rate, grid_seeds)], title)
    grid = {rate: median(map(final_loss, store.results(runs(rate, grid_seeds))))
            for rate in learning_rates}
    rate = min(grid, key=grid.get)
    results = store.results(runs(rate, seeds), f"{title} best")
    losses = [final_loss(result) for result in results]
    finished = [result for result in results if not result["diverged"]]
    points = [step for step, _ in finished[0]["curve"]] if finished else []
    curves = np.array([[loss for _, loss in result["curve"]] for result in finished])
    return {
        "network": network, "optimizer": optimizer, "schedule": schedule, "steps": steps,
        "batch_size": batch_size, "data": store.data.fingerprint, "learning_rate": rate,
        "seeds": seeds, "grid_seeds": grid_seeds, "losses": [_number(loss) for loss in losses],
        "loss": _number(median(losses)),
        "test_accuracy": median(r["test_accuracy"] for r in finished) if finished else None,
        "curve": [[step, _number(loss)] for step, loss in zip(points, np.median(curves, 0))]
        if finished else [],
        "grid": [[rate, _number(loss)] for rate, loss in grid.items()],
        "command": f"KERAS_BACKEND={keras.backend.backend()} python -m eval tune "
                   f"--networks {network} --optimizers {optimizer} --schedules {schedule} "
                   f"--steps {steps} --batch_size {batch_size} "
                   f"--learning_rates {_list(grid)} --seeds {_list(seeds)} "
                   f"--grid_seeds {_list(grid_seeds)} --data_dir DIR",
    }


def save(records: list[Record], folder: str | Path) -> None:
    """Write records to a file for each network, in place of those on the same search."""
    for network in {record["network"] for record in records}:
        new = {_search(r): r for r in records if r["network"] == network}
        old = {_search(r): r for r in load(network, folder)}
        # A record a line, so that a change of one shows as such.
        lines = ",\n".join(json.dumps(record) for record in {**old, **new}.values())
        write_text(Path(folder) / f"{network}.json", f"[\n{lines}\n]\n")


def load(network: str, folder: str | Path = BASELINES) -> list[Record]:
    """The records that were saved for a network."""
    path = Path(folder) / f"{network}.json"
    return json.loads(path.read_text()) if path.exists() else []


def _search(record: Record) -> tuple[Any, ...]:
    return tuple(record[key] for key in ("optimizer", "schedule", "steps", "batch_size", "data"))


def _list(numbers: Iterable[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers)


def _number(loss: float) -> float | None:
    return float(f"{loss:.6g}") if np.isfinite(loss) else None


def main(argv: list[str]) -> None:
    """The command line."""
    cli.no_arguments(argv)
    seeds = cli.integers(OPTIONS, "seeds", 0)
    grid_seeds = seeds if OPTIONS.grid_seeds is None else cli.integers(OPTIONS, "grid_seeds", 0)
    searches = [
        (network, optimizer, schedule, steps)
        for steps in cli.integers(OPTIONS, "steps", 1)
        for network in cli.choices(OPTIONS, "networks", networks.NETWORKS)
        for optimizer in cli.choices(OPTIONS, "optimizers", optimizers.TUNED)
        for schedule in cli.choices(OPTIONS, "schedules", optimizers.SCHEDULES)
    ]
    rates = cli.rates(OPTIONS, "learning_rates")
    store = Store(OPTIONS.store, cli.load_data(OPTIONS))
    records = []
    for search in searches:
        records.append(best(*search, store, learning_rates=rates, seeds=seeds,
                            grid_seeds=grid_seeds, batch_size=OPTIONS.batch_size))
        if OPTIONS.save:
            save(records[-1:], OPTIONS.save)
    if OPTIONS.json:
        cli.print_json(records)
        return
    table = rich.table.Table(
        "network", "optimizer", "schedule", "steps", "rate", "loss", "accuracy",
        title="best learning rates, training loss and test accuracy")
    for record in records:
        table.add_row(
            *(str(record[key]) for key in ("network", "optimizer", "schedule", "steps")),
            f"{record['learning_rate']:.3g}",
            cli.shown(record["loss"]), cli.shown(record["test_accuracy"], ".4f", ""))
    rich.print(table)
