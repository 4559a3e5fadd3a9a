"""What a step of an optimizer costs by itself, without a model: throughput, memory, first call.

Tensors are random, and so are their gradients, the same at every step. The step is compiled as
Keras's trainer compiles it: `jax.jit` with its state handed over, `tf.function(jit_compile=True)`;
on PyTorch it is eager, or `torch.compile`.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from eval.runs.optimizers import told

Step = Callable[[], None]
Shapes = list[tuple[int, ...]]

# A timed round takes about so many seconds.
ROUND_SECONDS = 0.3


def spread_shapes(parameters: int, tensors: int) -> Shapes:
    """Vectors of sizes spread over three decades, as those of a residual network are.

    Args:
        parameters: in all.
        tensors: how many.

    Raises:
        ValueError: if there are too few parameters for that.
    """
    shares = np.logspace(0, -3, tensors)
    ends = np.round(parameters * np.cumsum(shares) / shares.sum()).astype(int)
    sizes = np.diff(ends, prepend=0)
    if sizes.min() < 1:
        raise ValueError(
            f"`parameters` must be enough for {tensors} tensors of sizes over three decades, got "
            f"{parameters}.")
    return [(int(size),) for size in sizes]


class Subject(NamedTuple):
    """An optimizer whose steps are measured.

    Attributes:
        step: takes one step and waits for it; the first one compiles.
        transient_bytes: what a step takes for a moment beside the state; NaN where nobody knows.
    """

    step: Step
    transient_bytes: Callable[[], float]


def build(optimizer: keras.optimizers.Optimizer, shapes: Shapes) -> Subject:
    """The optimizer on new tensors.

    Args:
        optimizer: not built yet.
        shapes: of the tensors.
    """
    rng = np.random.default_rng(0)
    variables = [keras.Variable(rng.normal(size=shape).astype("float32")) for shape in shapes]
    gradients = [
        keras.ops.convert_to_tensor(rng.normal(size=shape).astype("float32")) for shape in shapes]
    optimizer.build(variables)
    if keras.backend.backend() == "jax":
        return _on_jax(optimizer, variables, gradients)
    if keras.backend.backend() == "tensorflow":
        step = _tensorflow_step(optimizer, variables, gradients)
        return Subject(step, lambda: _growth(step))
    step = _torch_step(optimizer, variables, gradients)
    return Subject(step, lambda: _allocated_by_torch(step))


def _more(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    return told(optimizer, keras.ops.convert_to_tensor(1.0, "float32"))


def _on_jax(optimizer, variables, gradients) -> Subject:
    import jax

    program = None
    held = [v.value for v in variables], [v.value for v in optimizer.variables]

    def step() -> None:
        nonlocal held, program
        if program is None:
            program = jax.jit(
                lambda tensors, state, gradients: optimizer.stateless_apply(
                    state, gradients, tensors, **_more(optimizer)),
                donate_argnums=(0, 1)).lower(*held, gradients).compile()
        held = jax.block_until_ready(program(*held, gradients))

    def transient() -> float:
        memory = program.memory_analysis()
        return (memory.temp_size_in_bytes + memory.output_size_in_bytes
                - memory.alias_size_in_bytes)

    return Subject(step, transient)


def _tensorflow_step(optimizer, variables, gradients) -> Step:
    import tensorflow as tf

    apply = tf.function(
        lambda: optimizer.apply(gradients, variables, **_more(optimizer)), jit_compile=True)

    def step() -> None:
        apply()
        # Reading one number waits for the step.
        float(variables[-1].value[0])

    return step


def _torch_step(optimizer, variables, gradients) -> Step:
    import torch

    return torch.no_grad()(lambda: optimizer.apply(gradients, variables, **_more(optimizer)))


def measure(
    optimizers: dict[str, Callable[[], keras.optimizers.Optimizer]], shapes: Shapes,
    repeats: int,
) -> dict[str, dict[str, float]]:
    """The cost of each optimizer's step. They take turns, so that what slows the machine down slows
    all of them down.

    Args:
        optimizers: by name, what makes each.
        shapes: of the tensors.
        repeats: rounds, of which the median counts.

    Returns:
        By name: `million_parameters_per_second`, `first_call_seconds`, `state_bytes_per_parameter`
        of the variables that the optimizer keeps, and `peak_bytes_per_parameter`, that and what a
        step takes for a moment (as the compiler says on JAX and the allocator on PyTorch, by the
        size of the process on TensorFlow).
    """
    parameters = sum(int(np.prod(shape)) for shape in shapes)
    found, steps, counts = {}, {}, {}
    for name, make in optimizers.items():
        optimizer = make()
        subject = build(optimizer, shapes)
        state = sum(_bytes(v) for v in optimizer.variables) / parameters
        started = time.perf_counter()
        subject.step()
        found[name] = {
            "first_call_seconds": time.perf_counter() - started,
            "state_bytes_per_parameter": state,
            "peak_bytes_per_parameter": state + subject.transient_bytes() / parameters,
        }
        steps[name] = subject.step
        counts[name] = max(1, round(ROUND_SECONDS / _seconds(subject.step, 3)))
    seconds = {name: [] for name in optimizers}
    for _ in range(repeats):
        for name, step in steps.items():
            seconds[name].append(_seconds(step, counts[name]))
    for name, times in seconds.items():
        found[name]["million_parameters_per_second"] = parameters / 1e6 / statistics.median(times)
    return found


def _seconds(step: Step, count: int) -> float:
    """Of one step, the mean of so many."""
    started = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - started) / count


def _bytes(variable: keras.Variable) -> int:
    dtype = keras.backend.standardize_dtype(variable.dtype)
    width = {"bool": 1, "bfloat16": 2, "float16": 2}.get(dtype, 4)
    return width * int(np.prod(variable.shape))


def _allocated_by_torch(step: Step) -> float:
    """Bytes that PyTorch has allocated in a step and not freed yet, at most."""
    import torch

    with torch.profiler.profile(profile_memory=True) as seen:
        step()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return float(np.max(np.cumsum([event.nbytes() for event in events]), initial=0.0))


def _growth(step: Step) -> float:
    """Bytes by which the process is larger, at most, in a step than before it; Linux only."""
    try:
        # What earlier steps have freed and the C library has kept would hide what this one takes.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        step()
        return _status("VmHWM") - before
    except (OSError, AttributeError):
        return float("nan")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"no {field}")
