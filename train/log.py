"""The log of a training run: `log.jsonl`, a line for each meta-step, and TensorBoard's events."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hrnn_opt.files.atomic import write_atomic
from hrnn_opt.training.events import EventWriter

NAME = "log.jsonl"


def read(folder: Path) -> list[dict[str, Any]]:
    """The meta-steps that a run has logged, in order; none without a log.

    Each is a `train.trainer.StepReport` as JSON has it, some with a `validation`. A line that a
    killed run has left by halves ends them.
    """
    path = folder / NAME
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
            record["step"]
        except (ValueError, KeyError, TypeError):
            break
        records.append(record)
    return records


class Log:
    """The log of a run that goes on.

    Args:
        folder: of the run.
        step: the checkpoint that it goes on from; lines after it are taken off.
    """

    def __init__(self, folder: Path, step: int) -> None:
        lines = [json.dumps(record) for record in read(folder) if record["step"] <= step]
        write_atomic(folder / NAME, "".join(f"{line}\n" for line in lines).encode())
        self._file = (folder / NAME).open("a")
        self._events = EventWriter(folder)

    def add(self, record: dict[str, Any], histograms: Mapping[str, np.ndarray]) -> None:
        """Log a meta-step; the histograms are for TensorBoard alone."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        self._events.write(record["step"], _scalars(record), histograms)


def _scalars(record: dict[str, Any]) -> dict[str, float]:
    """What TensorBoard shows of a meta-step."""
    scalars = {f"meta-objective/{name}": loss for name, loss in record["losses"].items()}
    by_phase = defaultdict(list)
    for name, losses in record["phases"].items():
        for phase, loss in losses.items():
            scalars[f"meta-objective {phase}/{name}"] = loss
            by_phase[phase].append(loss)
    for phase, losses in by_phase.items():
        scalars[f"meta-objective by phase/{phase}"] = float(np.mean(losses))
    scalars |= {
        "meta-gradient/norm": record["gradient_norm"],
        "meta-gradient/signal": record["signal"],
        "meta-gradient/share of members clipped": record["clipped"],
        "meta-gradient/share of members left out": record["left_out"],
        "meta-gradient/share of entries not finite": record["bad"],
        "throughput/million parameter-steps a second":
            record["parameter_steps"] / record["seconds"],
        "throughput/inner steps a second": record["inner_steps"] / record["seconds"],
    }
    for name in ("score", "curve", "end"):
        if "validation" in record:
            scalars[f"validation/{name}"] = record["validation"][name]
    return scalars
