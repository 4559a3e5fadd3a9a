"""Replays what the authors' released programs computed: the trajectories of the hierarchical RNN
through `HierarchicalLOpt`, those of others in `learned.py`, problems in `problems.py`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from eval.conformance import learned
from eval.conformance.recording import FormatError, Recording, read

# Largest allowed deviations: of locations relative to the distance that the tensor has moved, of
# log learning rates and RNN states absolute.
TOLERANCES = {"parameters": 2e-5, "attended": 2e-5, "log_learning_rate": 5e-5, "states": 2e-5}

class _Trajectory(Recording):
    """A recording of the hierarchical RNN."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        super().__init__(arrays)
        self.lookahead = bool(self.get("attention", ()))
        self.initial_learning_rate = float(np.exp(self.get("init_log_lr", ())))


def replay_trajectory(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Largest deviations of `HierarchicalLOpt` from one trajectory file.

    Returns:
        By name as in `TOLERANCES`. Parameters and attended parameters: the largest deviation in a
        tensor divided by the farthest that an entry of it has been from its start so far (a tensor
        of one number may cross its start again, where 32 bits cannot tell a small distance); log
        learning rates and states: absolute. A deviation that is not finite counts as the largest
        number there is.

    Raises:
        FormatError: if a key is missing or does not fit.
    """
    import keras
    from keras import ops

    from hrnn_opt import HierarchicalLOpt
    from hrnn_opt.files.foreign import from_released

    data = _Trajectory(arrays)
    try:
        weights = from_released(data.meta_parameters, data.lookahead)
    except ValueError as error:
        raise FormatError(error) from None
    config = weights.config.core
    variables = [keras.Variable(start, dtype="float32") for start in data.start]
    optimizer = HierarchicalLOpt(
        weights, initial_learning_rate=data.initial_learning_rate, learning_rate=1.0,
        # The released program moves what has no gradient.
        hold_zero_gradients=False)
    optimizer.build(variables)
    apply = _apply_function(optimizer, variables)
    worst = dict.fromkeys(TOLERANCES, 0.0)
    farthest: dict[tuple[str, int], float] = {}

    def note(name: str, ours: Any, theirs: np.ndarray, scale: float = 1.0) -> None:
        deviation = np.abs(
            np.asarray(ops.convert_to_numpy(ours), "float64") - theirs).max() / scale
        if not np.isfinite(deviation):
            deviation = sys.float_info.max
        worst[name] = max(worst[name], float(deviation))

    def note_moved(name: str, key: str, i: int, ours: Any, theirs: np.ndarray) -> None:
        moved = float(np.abs(theirs - data.start[i]).max())
        farthest[name, i] = max(moved, farthest.get((name, i), 1e-30))
        note(name, ours, theirs, farthest[name, i])

    for t in range(data.steps):
        apply([data.get(f"grad/{t}/{i}", start.shape) for i, start in enumerate(data.start)])
        state = optimizer.state()
        log_rates = optimizer.per_variable(state["log_learning_rate"])
        for i, (true, start) in enumerate(zip(optimizer.true_parameters(), data.start)):
            shape = start.shape
            note_moved("parameters", "param", i, true, data.get(f"param/{t}/{i}", shape))
            note_moved(
                "attended", "attended", i, variables[i], data.get(f"attended/{t}/{i}", shape))
            note("log_learning_rate", log_rates[i], data.get(f"log_lr/{t}/{i}", shape))
            note("states", state["tensor_hidden"][:, i],
                 data.get(f"tensor_state/{t}/{i}", (config.tensor_units,)))
        note("states", state["global_hidden"],
             data.get(f"global_state/{t}", (config.global_units,)))
    hidden = [ops.reshape(optimizer.per_variable(row)[0], (-1,)) for row in state["hidden"]]
    note("states", ops.stack(hidden, axis=1),
         data.get("last_param_state/0", (data.start[0].size, config.parameter_units)))
    return worst


def _apply_function(optimizer: Any, variables: list) -> Callable[[list[np.ndarray]], None]:
    """`optimizer.apply`, compiled where that saves time: long files have thousands of steps."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        stateless = jax.jit(optimizer.stateless_apply)

        def apply(grads: list[np.ndarray]) -> None:
            values, states = stateless(
                [v.value for v in optimizer.variables], grads, [v.value for v in variables])
            for variable, value in zip([*variables, *optimizer.variables], [*values, *states]):
                variable.assign(value)

        return apply
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(lambda grads: optimizer.apply(grads, variables))
        return lambda grads: compiled([tf.constant(g) for g in grads])
    return lambda grads: optimizer.apply(
        [keras.ops.convert_to_tensor(g) for g in grads], variables)


def replay(
    path: str, weights: Mapping[str, Mapping[str, np.ndarray]] | None = None
) -> tuple[bool, dict[str, Any]]:
    """Whether a file of any kind is reproduced, and its largest deviations.

    Args:
        path: of the file.
        weights: by file, meta-parameters for a recording that holds none.

    Raises:
        FormatError: if it is of no kind.
    """
    arrays = read(path)
    if "n_tensors" in arrays:
        tolerances = TOLERANCES
        if "attention" in arrays or "init_log_lr" in arrays:
            worst = replay_trajectory(arrays)
        else:
            worst, tolerances = learned.replay(arrays, weights)
        return all(worst[name] <= tolerances[name] for name in tolerances), worst
    # Written in JAX, which a replay of trajectories on another backend does without.
    from eval.conformance.problems import replay as replay_problems

    try:
        problems = replay_problems(path)
    except ValueError as error:
        raise FormatError(error) from None
    worst = {
        name: max(getattr(deviation, name) for deviation in problems.values())
        for name in ("value", "gradient")
    }
    passed = all(deviation.passed for deviation in problems.values())
    return passed, worst | {
        "problems": {name: dataclasses.asdict(problem) for name, problem in problems.items()}}
