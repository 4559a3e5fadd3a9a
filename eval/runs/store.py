"""Results of training runs, each in a JSON file named by the run's full configuration.

A file is written beside its place and then renamed: a killed program leaves whole results only, and
the next one runs what is missing. Several programs may share a store. Its packed files
(`eval.runs.packed`) are read, and never written.

What a store holds is not only `eval.runs.run.Run`s: anything hashable that has their `title`,
`configuration` and `execute` will do, if its results have the keys in `KEYS`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import tqdm

from eval.runs import packed
from eval.runs.data import Data
from eval.runs.results import Result
from eval.runs.workers import Workers
from hrnn_opt.files.atomic import write_atomic
from train import progress


class Storable(Protocol):
    """A run: data that decide its numbers."""

    KEYS: frozenset[str]

    @property
    def title(self) -> str: ...

    def configuration(self, data: Data) -> dict[str, Any]: ...

    def execute(self, data: Data) -> Result: ...


class Store:
    """A folder of results.

    Args:
        folder: made at the first result.
        data: what the runs are trained on.
        workers: processes to run in; None: one run after the other, in this process.
        seconds: where what each run took is noted, by its path.
    """

    def __init__(
        self, folder: str | os.PathLike[str], data: Data, workers: Workers | None = None,
        seconds: dict[Path, float] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.data = data
        self.workers = workers
        self.seconds = {} if seconds is None else seconds
        self._packed: dict[Path, tuple[Any, dict[str, Result]]] = {}

    def path(self, run: Storable) -> Path:
        """Where the run's result is, or will be."""
        configuration = json.dumps(run.configuration(self.data), sort_keys=True)
        digest = hashlib.sha256(configuration.encode()).hexdigest()[:12]
        return self.folder / f"{run.title}-{digest}.json"

    def get(self, run: Storable) -> Result | None:
        """The run's result, or None if there is none or it is damaged."""
        path = self.path(run)
        expected = run.configuration(self.data).items()
        for read in (self._read, self._read_packed):
            result = read(path)
            complete = isinstance(result, dict) and set(result) >= run.KEYS
            if complete and expected <= result.items():
                return result
        return None

    @staticmethod
    def _read(path: Path) -> Any:
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError):
            return None

    def _read_packed(self, single: Path) -> Result | None:
        """The result that was in a single file, from the packed one, which is read when it is new.
        """
        path = packed.path_of(single)
        try:
            found = path.stat()
        except OSError:
            return None
        version = found.st_ino, found.st_mtime_ns, found.st_size
        if self._packed.get(path, (None,))[0] != version:
            self._packed[path] = version, packed.read(path)
        return self._packed[path][1].get(single.stem)

    def put(self, run: Storable, result: Result) -> None:
        """Keep a result."""
        write_json(self.path(run), result)

    def results(self, runs: Iterable[Storable], title: str = "runs") -> list[Result]:
        """The results of all runs, after those that are missing have been run."""
        runs = list(runs)
        missing = [run for run in dict.fromkeys(runs) if self.get(run) is None]
        bar = progress.bar(total=len(missing), desc=title, unit="run", disable=not missing)
        for run, result in self._executed(missing, bar):
            self.put(run, result)
            bar.update()
        bar.close()
        results = [self.get(run) for run in runs]
        self.seconds |= {self.path(run): result["seconds"] for run, result in zip(runs, results)}
        return results

    def _executed(self, runs: list[Storable], bar: tqdm.tqdm) -> Iterator[tuple[Storable, Result]]:
        if self.workers and runs:
            for run, result in self.workers.executed(runs, self.data):
                bar.set_postfix_str(run.title)
                yield run, result
            return
        for run in runs:
            bar.set_postfix_str(run.title)
            # Another program may have been here since.
            if self.get(run) is None:
                yield run, run.execute(self.data)
            else:
                bar.update()


def write_json(path: Path, value: Any) -> None:
    """Write JSON to a file that is there whole or not at all."""
    write_text(path, json.dumps(value, allow_nan=False))


def write_text(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode())
