"""Processes that execute runs side by side, each on one core."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from eval.runs.data import Data

_THREADS = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


class Workers:
    """A number of processes; use it as a context.

    Each computes on one thread, so that the numbers of a run do not depend on how many others run.

    Args:
        processes: how many.
        cache: folder for compiled programs: most runs of a search share one.
    """

    def __init__(self, processes: int, cache: str | os.PathLike[str]) -> None:
        self.processes = processes
        self.cache = os.fspath(cache)
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None
        self._data: Data | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = self._data = None

    def executed(self, runs: Iterable[Any], data: Data) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Each run and what `run.execute(data)` gave, as they end.

        Args:
            runs: of a kind that a `Store` takes.
            data: sent to the processes once, as long as it stays the same.
        """
        if self._pool is None or data is not self._data:
            self._stop()
            self._pool, self._data = self._started(data), data
        futures = {self._pool.submit(_execute, run): run for run in runs}
        try:
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], future.result()
        finally:
            for future in futures:
                future.cancel()

    def _started(self, data: Data) -> concurrent.futures.ProcessPoolExecutor:
        return concurrent.futures.ProcessPoolExecutor(
            self.processes, multiprocessing.get_context("spawn"), _begin,
            (data, self.cache, os.getpid()))


_data: Data | None = None


def _begin(data: Data, cache: str, parent: int) -> None:
    global _data
    _data = data
    # JAX reads these when the first run imports it.
    os.environ.update({
        "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "XLA_FLAGS": _THREADS,
        "JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5"})
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when the program that wants its results is gone, however that came."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _execute(run: Any) -> dict[str, Any]:
    return run.execute(_data)
