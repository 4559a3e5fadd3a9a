"""The CPU and its memory: what a process settles before JAX computes anything, and what it uses."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

# Buffers of megabytes come and go at every step. Huge pages, and memory that is kept, spare the
# kernel from clearing them page by page.
_MALLOC = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1000000000000:"
    "glibc.malloc.top_pad=100000000")


def use_large_pages(module: str) -> None:
    """Start this process again with memory in huge pages, which glibc takes from its environment.

    Without effect where that is settled already, and on systems other than Linux.

    Args:
        module: which `python -m` runs.
    """
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ:
        return
    environment = os.environ | {"GLIBC_TUNABLES": _MALLOC}
    os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], environment)


def memory_maps_used() -> float:
    """The share of the memory mappings which Linux allows a process that this one has; 0 elsewhere.

    XLA keeps each kernel of a CPU program in three of them, and aborts where there are no more.
    """
    try:
        most = int(Path("/proc/sys/vm/max_map_count").read_text())
        return Path("/proc/self/maps").read_bytes().count(b"\n") / most
    except OSError:
        return 0.0


def use_every_core(members: int) -> None:
    """Make every core of the CPU a device of one thread; call it before JAX computes anything.

    Cores that work on members of their own need not wait for each other, where a core shared out
    within each operation does, thousands of times a second. Without effect on other devices.

    Args:
        members: of the training run; as many devices are made as share them evenly.
    """
    import jax

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    given = os.environ.get("XLA_FLAGS", "")
    if "host_platform_device_count" in given:
        return
    os.environ["XLA_FLAGS"] = f"{given} --xla_cpu_multi_thread_eigen=false"
    jax.config.update("jax_num_cpu_devices", math.gcd(members, cores or 1))
