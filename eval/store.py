"""Results of training runs, each in a JSON file named by the run's full configuration.

A file is written beside its place and then renamed: a killed program leaves whole results only, and
the next one runs what is missing. Several programs may share a store.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tqdm

from eval.data import Data
from eval.runs import Run
from hrnn_opt.files import write_atomic

Result = dict[str, Any]


class Store:
    """A folder of results.

    Args:
        folder: made at the first result.
        data: what the runs are trained on.
    """

    def __init__(self, folder: str | os.PathLike[str], data: Data) -> None:
        self.folder = Path(folder)
        self.data = data

    def path(self, run: Run) -> Path:
        """Where the run's result is, or will be."""
        configuration = json.dumps(run.configuration(self.data), sort_keys=True)
        digest = hashlib.sha256(configuration.encode()).hexdigest()[:12]
        return self.folder / f"{run.title}-{digest}.json"

    def get(self, run: Run) -> Result | None:
        """The run's result, or None if there is none or its file is damaged."""
        try:
            result = json.loads(self.path(run).read_text())
        except (OSError, ValueError):
            return None
        complete = isinstance(result, dict) and {"final_training_loss", "curve", "diverged"} <= set(
            result)
        expected = run.configuration(self.data).items()
        return result if complete and expected <= result.items() else None

    def put(self, run: Run, result: Result) -> None:
        """Keep a result."""
        write_json(self.path(run), result)

    def results(self, runs: Iterable[Run], title: str = "runs") -> list[Result]:
        """The results of all runs, after those that are missing have been run."""
        runs = list(runs)
        missing = [run for run in runs if self.get(run) is None]
        bar = tqdm.tqdm(missing, desc=title, unit="run", disable=not missing)
        for run in bar:
            bar.set_postfix_str(run.title)
            # Another program may have been here since.
            if self.get(run) is None:
                self.put(run, run.execute(self.data))
        return [self.get(run) for run in runs]


def write_json(path: Path, value: Any) -> None:
    """Write JSON to a file that is there whole or not at all."""
    write_text(path, json.dumps(value, allow_nan=False))


def write_text(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode())


def final_loss(result: Result) -> float:
    """The final training loss, infinite if the run diverged."""
    return math.inf if result["diverged"] else result["final_training_loss"]


def loss_at(result: Result, step: int) -> float:
    """The training loss after `step` steps, a point of the curve; infinite after divergence."""
    for point, loss in result["curve"]:
        if point == step:
            return loss
    if result["diverged"]:
        return math.inf
    raise ValueError(f"the curve has no point at step {step}.")
