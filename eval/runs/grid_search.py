"""Searches for the learning rates of hand-designed optimizers, and their records in `BASELINES`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import keras
import numpy as np

from eval.runs.data import Data
from eval.runs.results import final_loss
from eval.runs.run import Run
from eval.runs.store import Store, write_text

LEARNING_RATES = (1e-4, 3.16e-4, 1e-3, 3.16e-3, 1e-2, 3.16e-2, 1e-1, 3.16e-1, 1.0)
BASELINES = Path(__file__).parents[1] / "baselines"
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


def known(
    network: str, steps: int, data: Data, folder: str | Path = BASELINES,
) -> list[Record]:
    """Those of so many steps on these data, at the batch size of `Run`."""
    wanted = steps, Run.batch_size, data.fingerprint
    return [record for record in load(network, folder)
            if (record["steps"], record["batch_size"], record["data"]) == wanted]


def _search(record: Record) -> tuple[Any, ...]:
    return tuple(record[key] for key in ("optimizer", "schedule", "steps", "batch_size", "data"))


def _list(numbers: Iterable[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers)


def _number(loss: float) -> float | None:
    return float(f"{loss:.6g}") if np.isfinite(loss) else None
