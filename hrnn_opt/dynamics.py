"""What a `HierarchicalLOpt` does, in few numbers: what `LearningRateDynamics` logs.

Dimension letters: N parameters of a tensor (or of all), S gradient time scales, K tensors.

| quantity | of a tensor, and of all parameters |
|---|---|
| `log learning rate` | mean and quartiles of the effective one: see `log_learning_rate` |
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
| `skipped steps` | so far, because a gradient was not finite; overall only |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from keras import ops

from hrnn_opt.base import PER_MODEL, PER_TENSOR, State
from hrnn_opt.config import HierarchicalRNNConfig
from hrnn_opt.network import _MEAN_SQUARE_EPSILON, TENSOR_LOG_STEP_BOUND, width_factors
from hrnn_opt.optimizer import HierarchicalLOpt

LOG_LEARNING_RATE = "log learning rate"
QUARTILES = ("lower quartile", "median", "upper quartile")


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


def log_learning_rate(
    config: HierarchicalRNNConfig, meta_parameters: Mapping[str, np.ndarray],
    learning_rate: float, state: State,
) -> np.ndarray:
    """(N,) log of how far a direction of 1 moves each parameter of a tensor, from here on.

    With eta the running mean of the parameter's log learning rate, by the form of the step:

    learned: log(learning_rate) + eta + c_step. Directions have unit RMS in their tensor, so that
        this is also about the log RMS of its updates.
    normalized: log(learning_rate) + eta - log(scale), where scale is the running RMS of the
        tensor's updates before they are scaled. Without `update_scale_decay` that is not kept: it
        is then the RMS of exp(eta), that of directions which are all of one size. NaN before the
        tensor's first gradient. With `tensor_step_size`, the log of the tensor's factor is added;
        with `alignment_control`, that of the model's. Bounded updates may be smaller than that.
    without dynamic output scale: log(learning_rate * 2 sigmoid(read-out)).

    With averaging, it is the fast iterate that moves so far.

    Args:
        config, meta_parameters: of the network, the latter by name.
        learning_rate: the caller's, times the factor of the tensor's width.
        state: of this tensor, in which N takes the place of blocks and lanes.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.log(learning_rate)
        if not config.dynamic_output_scale:
            read = (np.tensordot(meta_parameters["learning_rate_weights"], state.hidden, 1)
                    + meta_parameters["learning_rate_bias"])
            return rate + np.log(2.0) - np.logaddexp(0.0, -read)
        rate = rate + state.log_learning_rate
        if config.step_size == "learned":
            return rate + meta_parameters["step_size_offset"]
        if config.update_scale_decay:
            mean_square = state.update_scale[0] / state.update_scale[1]
        else:
            mean_square = np.mean(np.exp(2.0 * state.log_learning_rate))
        if config.tensor_step_size:
            rate = rate + TENSOR_LOG_STEP_BOUND * np.tanh(
                meta_parameters["tensor_step_size_weights"] @ np.ravel(state.tensor_hidden))
        if config.alignment_control:
            rate = rate + state.log_step_size
        return rate - 0.5 * np.log(mean_square + _MEAN_SQUARE_EPSILON)


def values(
    config: HierarchicalRNNConfig, meta_parameters: Mapping[str, np.ndarray],
    learning_rate: float, state: State, offset: np.ndarray | None = None,
    before: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """The quantities of every parameter of one tensor, from which `summary` makes numbers.

    Args:
        config, meta_parameters, learning_rate, state: as in `log_learning_rate`; the state with
            the true parameters.
        offset: (N,) true parameters less the model's variables, where they differ.
        before: (N,) true parameters before the last batch, if they are known.

    Returns:
        (N,) for each quantity (of the momentum time scales, the fastest), (S, N) where it has
        several, (1,) where it is the tensor's.
    """
    found = {
        LOG_LEARNING_RATE: log_learning_rate(config, meta_parameters, learning_rate, state),
        "parameter": state.true_parameters,
        "scale decay": state.scale_decay,
        "parameter RNN norm": np.linalg.norm(state.hidden, axis=0),
    }
    if before is not None:
        found["update"] = state.true_parameters - before
    if state.input_decay is not None:
        # A decay of 0 has no memory, one of 1 (rounded) no end.
        with np.errstate(divide="ignore"):
            found["momentum time scale"] = 1.0 / np.abs(np.log(state.input_decay))
        logs = np.log(state.mean_squares + _MEAN_SQUARE_EPSILON)
        found["relative log mean square"] = logs - np.mean(logs, axis=0)
    if state.tensor_hidden is not None:
        found["tensor RNN norm"] = np.linalg.norm(state.tensor_hidden, keepdims=True)
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
    rates = values[LOG_LEARNING_RATE]
    rates = rates[np.isfinite(rates)]
    if rates.size:
        found[f"{LOG_LEARNING_RATE}/mean"] = np.mean(rates, dtype="float64")
        for name, quartile in zip(QUARTILES, np.percentile(rates, (25, 50, 75))):
            found[f"{LOG_LEARNING_RATE}/{name}"] = quartile
    for name in ("update", "parameter", "distance ahead"):
        if name in values:
            found[f"{name} RMS"] = np.sqrt(np.mean(np.square(values[name], dtype="float64")))
    if "update" in values and found["parameter RMS"] > 0:
        found["update to parameter ratio"] = found["update RMS"] / found["parameter RMS"]
    if "momentum time scale" in values:
        fastest = np.median(values["momentum time scale"])
        means = np.mean(values["relative log mean square"], axis=-1, dtype="float64")
        for s, relative in enumerate(means, 1):
            # d_{s+1} = sqrt(d_s) doubles the time.
            found[f"momentum time scale/{s}"] = 2 ** (s - 1) * fastest
            found[f"relative log mean square/{s}"] = relative
    found["scale decay"] = np.median(values["scale decay"])
    for name in ("parameter RNN norm", "tensor RNN norm"):
        if name in values:
            found[name] = np.mean(values[name], dtype="float64")
    return {name: float(number) for name, number in found.items()}


def measure(
    optimizer: HierarchicalLOpt, before: list[np.ndarray] | None = None
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """What the optimizer does now.

    Args:
        optimizer: one that moves at least one tensor.
        before: what `true_parameters` gave before the last batch. None: no updates are measured.

    Returns:
        Each quantity by its tag; and by theirs, the log learning rates of each tensor's parameters
        and of all. Overall comes first, tensors in the order of the model's variables.
    """
    config = optimizer.network_config
    meta = {name: _numpy(value) for name, value in optimizer.meta_parameters.items()}
    rate = float(_numpy(optimizer.learning_rate))
    offsets = (
        _by_tensor(optimizer, optimizer._offset) if optimizer.attends
        else [None] * len(optimizer._members))
    rates = rate * width_factors(config, optimizer._layout.shapes)
    tensors = [
        values(config, meta, rates[k], state, offset, None if before is None else before[k])
        for k, (state, offset) in enumerate(zip(_states(optimizer), offsets))]
    everything = {
        quantity: np.concatenate([tensor[quantity] for tensor in tensors], axis=-1)
        for quantity in tensors[0]}
    overall = summary(everything) | {"skipped steps": float(_numpy(optimizer.skipped_steps))}
    if config.global_units:
        overall["global RNN norm"] = float(np.linalg.norm(_numpy(optimizer.state().global_hidden)))
    scalars = {tag(quantity): number for quantity, number in overall.items()}
    histograms = {tag(LOG_LEARNING_RATE): everything[LOG_LEARNING_RATE]}
    for name, tensor in zip(_names(optimizer), tensors):
        scalars |= {tag(quantity, name): number for quantity, number in summary(tensor).items()}
        histograms[tag(LOG_LEARNING_RATE, name)] = tensor[LOG_LEARNING_RATE]
    return scalars, histograms


def true_parameters(optimizer: HierarchicalLOpt) -> list[np.ndarray]:
    """(N,) copies of the true parameters of each tensor that the optimizer moves.

    In NumPy, as all else here: a slice for each tensor costs a backend more than the whole step.
    """
    held = [_numpy(optimizer._trainable_variables[i]).reshape(-1) for i in optimizer._members]
    if not optimizer.attends:
        return held
    return [x + offset for x, offset in zip(held, _by_tensor(optimizer, optimizer._offset))]


def _names(optimizer: HierarchicalLOpt) -> Iterator[str]:
    """The variables' paths, which Keras does not keep apart in every model."""
    times = Counter()
    for i in optimizer._members:
        path = optimizer._trainable_variables[i].path
        times[path] += 1
        yield path if times[path] == 1 else f"{path} ({times[path]})"


def _states(optimizer: HierarchicalLOpt) -> list[State]:
    """The state of each tensor."""
    count = len(optimizer._members)
    fields = {}
    for field, value in optimizer.state()._asdict().items():
        if field == "true_parameters":
            fields[field] = true_parameters(optimizer)
        elif value is None:
            fields[field] = [None] * count
        elif field in PER_MODEL:
            fields[field] = [_numpy(value)] * count
        elif field in PER_TENSOR:
            fields[field] = np.moveaxis(_numpy(value), -1, 0)
        else:
            fields[field] = _by_tensor(optimizer, value)
    return [State(*of_tensor) for of_tensor in zip(*fields.values())]


def _by_tensor(optimizer: HierarchicalLOpt, buffer: Any) -> list[np.ndarray]:
    """A (..., B, L) buffer of the state as (..., N) numbers for each tensor."""
    whole = _numpy(buffer)
    flat = whole.reshape(*whole.shape[:-2], -1)
    return [flat[..., part] for part in optimizer._layout.slices]


def _numpy(x: Any) -> np.ndarray:
    """A copy, as what it is taken from may be overwritten; of narrow floats and integers in
    float32."""
    array = np.array(ops.convert_to_numpy(x))
    return array if array.dtype == "float64" else array.astype("float32", copy=False)
