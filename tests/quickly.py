"""How XLA compiles quickly on a CPU. Tests run small programs a few times, so that compiling them
is most of the work; their numbers stay the same to rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

OPTIONS = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
# The same for the environment variable XLA_FLAGS of a process.
FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in OPTIONS.items())


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit` of the function."""
    import jax

    return jax.jit(function, compiler_options=OPTIONS)
