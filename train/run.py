"""A training run in a folder: progress, log, validation, checkpoints, weights."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hrnn_opt.files.atomic import write_atomic
from train import progress, validation
from train.config import TrainConfig
from train.devices import writes
from train.log import Log
from train.trainer import StepReport, Trainer


def run(
    config: TrainConfig, out: Path, resume: bool, until: Callable[[], bool],
    checkpoint_seconds: float = 120.0, validate_every: int = 100,
) -> Trainer:
    """Train into a folder until the config's steps are done or `until` says so.

    Args:
        config: of the run.
        out: its folder; made if need be.
        resume: go on from the newest checkpoint in it.
        until: asked before each meta-step.
        checkpoint_seconds: time between checkpoints.
        validate_every: meta-steps between validations, the first of which is of the start, and
            between TensorBoard's histograms of the optimizer's states; 0 for none.

    Raises:
        ValueError: if the folder holds a run already and `resume` is off, or another one and it
            is on.
    """
    out.mkdir(parents=True, exist_ok=True)
    if not resume and (out / "config.json").exists():
        raise ValueError(f"`out` must hold no run yet, or resume must be on, got {str(out)!r}.")
    trainer = Trainer(config)
    best = np.inf
    if resume and trainer.resume(out) and (out / "best.json").exists():
        best = json.loads((out / "best.json").read_text())["score"]
    if writes():
        write_atomic(out / "config.json", config.to_json().encode())
    log = Log(out, trainer.step) if writes() else None
    bar = progress.bar(total=config.steps, initial=trainer.step, unit="step", mininterval=2.0,
                       disable=not writes())
    checked = time.monotonic()
    smooth = {"loss": None, "rate": None}
    validator = validation.Validator(config, trainer.network) if validate_every else None
    if validator and not trainer.step:
        _say(0, validator(trainer.average))
    while trainer.step < config.steps and not until():
        report = trainer.run_step()
        record, states = dataclasses.asdict(report), {}
        if validator and report.step % validate_every == 0:
            record["validation"] = validator(trainer.average)
            states = trainer.optimizer_states()
            if record["validation"]["score"] < best:
                best = record["validation"]["score"]
                if writes():
                    trainer.weights_file().save(out / "best.safetensors")
                    write_atomic(out / "best.json", json.dumps(
                        {"step": report.step, **record["validation"]}).encode())
            _say(report.step, record["validation"])
        if log:
            log.add(record, states)
        _progress(bar, report, smooth)
        if time.monotonic() - checked > checkpoint_seconds:
            _save(trainer, out)
            checked = time.monotonic()
    _save(trainer, out)
    bar.close()
    return trainer


def _say(step: int, scores: dict) -> None:
    tqdm.write(f"step {step}: validation {json.dumps(scores)}", file=sys.stderr)


def _save(trainer: Trainer, out: Path) -> None:
    trainer.save(out)
    if writes():
        trainer.weights_file().save(out / "last.safetensors")


def _progress(bar: tqdm, report: StepReport, smooth: dict) -> None:
    loss = float(np.mean(list(report.losses.values())))
    for name, value in (("loss", loss), ("rate", report.parameter_steps / report.seconds)):
        old = smooth[name]
        smooth[name] = value if old is None else 0.95 * old + 0.05 * value
    bar.set_postfix_str(
        f"meta-objective {smooth['loss']:.3f}, {smooth['rate']:.2f} M parameter-steps/s, "
        f"gradient {report.gradient_norm:.2g}", refresh=False)
    bar.update()


def dry_run(config: TrainConfig) -> None:
    """Print the families of the suite and the seconds that compiling each one takes.

    As many are compiled at a time as there are cores, so the seconds add up to more than the last
    line's.
    """
    trainer = Trainer(config)
    total = time.perf_counter()

    def compiled(index: int) -> tuple[int, float]:
        started = time.perf_counter()
        trainer.estimators[index].compile(trainer.meta)
        trainer.estimators[index].unload()
        return index, time.perf_counter() - started

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        tasks = [threads.submit(compiled, i) for i in range(len(trainer.families))]
        for task in concurrent.futures.as_completed(tasks):
            index, seconds = task.result()
            family, weight = trainer.families[index], trainer.weights[index]
            print(f"{seconds:6.1f} s  {100 * weight:5.2f} %  "
                  f"{family.layout.parameters:6d} parameters  {family.name}", flush=True)
    print(f"{time.perf_counter() - total:6.1f} s  {len(trainer.families)} programs")
