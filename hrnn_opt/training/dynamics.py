"""What a learned optimizer does, in few numbers: what `LearningRateDynamics` logs.

Dimension letters: N parameters of a tensor (or of all), S gradient time scales, K tensors.

| quantity | of a tensor, and of all parameters |
|---|---|
| `log learning rate` | mean and quartiles of the effective one: see below |
| `update RMS` | of the change of the parameters in the last batch, weight decay and all |
| `parameter RMS` | of the true parameters |
| `update to parameter ratio` | of these two; none where the parameters are all 0 |
| `momentum time scale` | median of -1 / log(decay) in steps, for each time scale |
| `scale decay` | median decay of the mean squares that gradients are scaled by |
| `relative log mean square` | mean for each time scale, relative to all of them: all are 0 where
gradients agree; where they are noise, the slow averages cancel, and the last is negative |
| `parameter RNN norm` | mean L2 norm of the parameters' hidden states |
| `tensor RNN norm`, `global RNN norm` | L2 norms of theirs (overall: the mean over tensors) |
| `distance ahead RMS` | of the true parameters less what the model's variables hold, with lookahead
and averaging |
| `global log step size` | of the factor that alignment steers; overall only |
| `skipped steps` | so far, because a gradient was not finite; overall only |

A network and the rules around it say what they have of these (`LearnedOptimizer.describe`). The log
learning rate is the log of how far a direction of 1 moves a parameter from here on; with averaging,
it is the fast iterate that moves so far. Bounded updates may be smaller.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from keras import ops

from hrnn_opt.interface import State
from hrnn_opt.training.optimizer import LearnedOpt

LOG_LEARNING_RATE = "log learning rate"
QUARTILES = ("lower quartile", "median", "upper quartile")
_BY_RMS = ("update", "parameter", "distance ahead")
_BY_MEDIAN = ("momentum time scale", "scale decay")
_GLOBAL = "global "


def tag(quantity: str, tensor: str | None = None) -> str:
    """How a quantity is called in TensorBoard, of a tensor or of all.

    TensorBoard puts what has the same beginning, up to the first slash, into one group. By quantity
    they are twelve, in each of which one looks across tensors; by tensor they would be as many as
    there are tensors. `overall` comes first in the alphabet.
    """
    if tensor is None:
        return f"overall/{quantity}"
    name, slash, part = quantity.partition("/")
    return f"tensor {name}/{tensor}{slash}{part}"


def values(
    optimizer: LearnedOpt, state: State, shape: tuple[int, ...], parameters: np.ndarray,
    learning_rate: float, offset: np.ndarray | None = None, before: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """The quantities of every parameter of one tensor, from which `summary` makes numbers.

    Args:
        optimizer: whose they are.
        state: of this tensor, as `LearnedOptimizer.describe` takes it.
        shape: of the tensor.
        parameters: (N,) true ones.
        learning_rate: the caller's.
        offset: (N,) true parameters less the model's variables, where they differ.
        before: (N,) true parameters before the last batch, if they are known.

    Returns:
        (N,) for each quantity, (S, N) where it has several, (1,) where it is the tensor's.
    """
    found = dict(optimizer._step.__self__.describe(state, shape))
    if LOG_LEARNING_RATE in found:
        with np.errstate(divide="ignore"):
            found[LOG_LEARNING_RATE] = found[LOG_LEARNING_RATE] + np.log(learning_rate)
    found = {
        name: np.reshape(value, (1,)) if np.ndim(value) == 0 else value
        for name, value in found.items()}
    found["parameter"] = parameters
    if before is not None:
        found["update"] = parameters - before
    if offset is not None:
        found["distance ahead"] = offset
    return found


def summary(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The quantities of a tensor from those of its parameters, or of all parameters from theirs.

    Args:
        values: what the function of that name gives; for several tensors, one after the other.

    Returns:
        The number by quantity; where there are several, as `quantity/which`.
    """
    found = {}
    for name, value in values.items():
        if name == LOG_LEARNING_RATE:
            rates = value[np.isfinite(value)]
            if rates.size:
                found[f"{name}/mean"] = np.mean(rates, dtype="float64")
                for which, quartile in zip(QUARTILES, np.percentile(rates, (25, 50, 75))):
                    found[f"{name}/{which}"] = quartile
        elif name in _BY_RMS:
            found[f"{name} RMS"] = np.sqrt(np.mean(np.square(value, dtype="float64")))
        elif np.ndim(value) == 2:
            for s, of_scale in enumerate(value, 1):
                found[f"{name}/{s}"] = _typical(name, of_scale)
        elif not name.startswith(_GLOBAL):
            found[name] = _typical(name, value)
    if "update" in values and found["parameter RMS"] > 0:
        found["update to parameter ratio"] = found["update RMS"] / found["parameter RMS"]
    return {name: float(number) for name, number in found.items()}


def _typical(name: str, value: np.ndarray) -> float:
    return np.median(value) if name in _BY_MEDIAN else np.mean(value, dtype="float64")


def measure(
    optimizer: LearnedOpt, before: list[np.ndarray] | None = None
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """What the optimizer does now.

    Args:
        optimizer: one that moves at least one tensor.
        before: what `true_parameters` gave before the last batch. None: no updates are measured.

    Returns:
        Each quantity by its tag; and by theirs, the log learning rates of each tensor's parameters
        and of all. Overall comes first, tensors in the order of the model's variables.
    """
    rate = float(_numpy(optimizer.learning_rate))
    count = len(optimizer._members)
    unknown: list[Any] = [None] * count
    offsets = _by_tensor(optimizer, optimizer._offset) if optimizer.attends else unknown
    tensors = [
        values(optimizer, *given) for given in zip(
            _states(optimizer), optimizer._layout.shapes, true_parameters(optimizer),
            [rate] * count, offsets, before or unknown)]
    everything = {
        quantity: np.concatenate([tensor[quantity] for tensor in tensors], axis=-1)
        for quantity in tensors[0]}
    overall = summary(everything) | {
        name: float(value[0]) for name, value in everything.items() if name.startswith(_GLOBAL)}
    overall["skipped steps"] = float(_numpy(optimizer.skipped_steps))
    scalars = {tag(quantity): number for quantity, number in overall.items()}
    histograms = {}
    if LOG_LEARNING_RATE in everything:
        histograms[tag(LOG_LEARNING_RATE)] = everything[LOG_LEARNING_RATE]
    for name, tensor in zip(_names(optimizer), tensors):
        scalars |= {tag(quantity, name): number for quantity, number in summary(tensor).items()}
        if LOG_LEARNING_RATE in tensor:
            histograms[tag(LOG_LEARNING_RATE, name)] = tensor[LOG_LEARNING_RATE]
    return scalars, histograms


def true_parameters(optimizer: LearnedOpt) -> list[np.ndarray]:
    """(N,) copies of the true parameters of each tensor that the optimizer moves.

    In NumPy, as all else here: a slice for each tensor costs a backend more than the whole step.
    """
    held = [_numpy(optimizer._trainable_variables[i]).reshape(-1) for i in optimizer._members]
    if not optimizer.attends:
        return held
    return [x + offset for x, offset in zip(held, _by_tensor(optimizer, optimizer._offset))]


def _names(optimizer: LearnedOpt) -> Iterator[str]:
    """The variables' paths, which Keras does not keep apart in every model."""
    times: Counter[str] = Counter()
    for i in optimizer._members:
        path = optimizer._trainable_variables[i].path
        times[path] += 1
        yield path if times[path] == 1 else f"{path} ({times[path]})"


def _states(optimizer: LearnedOpt) -> list[State]:
    """The state of each tensor."""
    count = len(optimizer._members)
    fields = {}
    for name, value in optimizer.state().items():
        of = optimizer._fields[name].of
        if of == "model":
            fields[name] = [_numpy(value)] * count
        elif of == "tensor":
            fields[name] = list(np.moveaxis(_numpy(value), -1, 0))
        elif of == "parameter":
            fields[name] = _by_tensor(optimizer, value)
    return [dict(zip(fields, of_tensor)) for of_tensor in zip(*fields.values())]


def _by_tensor(optimizer: LearnedOpt, buffer: Any) -> list[np.ndarray]:
    """A (..., B, L) buffer of the state as (..., N) numbers for each tensor."""
    whole = _numpy(buffer)
    flat = whole.reshape(*whole.shape[:-2], -1)
    return [flat[..., part] for part in optimizer._layout.slices]


def _numpy(x: Any) -> np.ndarray:
    """A copy, as what it is taken from may be overwritten; of narrow floats and integers in
    float32."""
    array = np.array(ops.convert_to_numpy(x))
    return array if array.dtype == "float64" else array.astype("float32", copy=False)
