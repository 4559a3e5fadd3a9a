"""`python -m eval conformance FILE...`: replay what the authors' released program computed.

Trajectory files are replayed through `HierarchicalLOpt` itself, on the backend in `KERAS_BACKEND`;
problem files through `problems`. The formats are described in `tests/data/README.md`.
"""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import flags

# Largest allowed deviations: of locations relative to the distance that the tensor has moved, of
# RNN states absolute.
TOLERANCES = {"parameters": 2e-5, "attended": 2e-5, "log_learning_rate": 5e-5, "states": 2e-5}

FLAGS = flags.FLAGS


class FormatError(ValueError):
    """A file that is not in the format."""


def _read(path: str) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except FileNotFoundError:
        raise FormatError(f"{path}: no such file.") from None
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise FormatError(f"{path}: not an .npz file without pickles ({error}).") from None


class _Checked(dict):
    """A file's arrays, whose missing keys are errors of the file."""

    def __init__(self, path: str, arrays: dict[str, np.ndarray]) -> None:
        super().__init__(arrays)
        self.path = path

    def __missing__(self, key: str) -> np.ndarray:
        raise FormatError(f"{self.path}: the key {key!r} is missing.")


def replay_trajectory(path: str) -> dict[str, float]:
    """Largest deviations of `HierarchicalLOpt` from one trajectory file.

    Returns:
        By name as in `TOLERANCES`. Parameters and attended parameters: the largest deviation in a
        tensor divided by the farthest that an entry of it has been from its start so far (a tensor
        of one number may cross its start again, where 32 bits cannot tell a small distance); log
        learning rates and states: absolute.

    Raises:
        FormatError: if a key is missing or does not fit.
    """
    import keras
    from keras import ops

    from hrnn_opt import HierarchicalLOpt
    from hrnn_opt.released import from_released

    data = _Checked(path, _read(path))
    tensors, steps = int(data["n_tensors"]), int(data["T"])
    lookahead = bool(data["attention"])
    try:
        weights = from_released(
            {key.removeprefix("meta/"): value for key, value in data.items()
             if key.startswith("meta/")}, lookahead)
        variables = [keras.Variable(data[f"param0/{i}"], name=f"t{i}") for i in range(tensors)]
        optimizer = HierarchicalLOpt(
            weights, initial_learning_rate=float(np.exp(np.float64(data["init_log_lr"]).flat[0])),
            learning_rate=1.0)
    except FormatError:
        raise
    except ValueError as error:
        raise FormatError(f"{path}: {error}") from None
    optimizer.build(variables)
    apply = _apply_function(optimizer, variables)

    worst = dict.fromkeys(TOLERANCES, 0.0)

    def note(name: str, ours: object, theirs: np.ndarray, scale: float = 1.0) -> None:
        ours = np.asarray(ops.convert_to_numpy(ours), "float64").reshape(theirs.shape)
        deviation = np.abs(ours - theirs).max() / scale
        worst[name] = max(worst[name], float(deviation) if np.isfinite(deviation) else np.inf)

    farthest: dict[tuple[str, int], float] = {}

    def moved(name: str, t: int, i: int) -> float:
        distance = float(np.abs(data[f"{name}/{t}/{i}"] - data[f"param0/{i}"]).max())
        farthest[name, i] = max(distance, farthest.get((name, i), 1e-30))
        return farthest[name, i]

    for t in range(steps):
        apply([data[f"grad/{t}/{i}"] for i in range(tensors)])
        state = optimizer.state()
        log_rates = optimizer.per_variable(state.log_learning_rate)
        for i, true in enumerate(optimizer.true_parameters()):
            note("parameters", true, data[f"param/{t}/{i}"], moved("param", t, i))
            note("attended", variables[i].value, data[f"attended/{t}/{i}"],
                 moved("attended", t, i))
            note("log_learning_rate", log_rates[i], data[f"log_lr/{t}/{i}"])
            note("states", state.tensor_hidden[:, i], data[f"tensor_state/{t}/{i}"])
        note("states", state.global_hidden, data[f"global_state/{t}"])
    hidden = [ops.reshape(optimizer.per_variable(row)[0], (-1,)) for row in state.hidden]
    note("states", ops.stack(hidden, axis=1), data["last_param_state/0"])
    return worst


def _apply_function(optimizer: object, variables: list) -> Callable[[list[np.ndarray]], None]:
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


def replay(path: str) -> tuple[bool, dict[str, float]]:
    """Whether a file of either kind is reproduced, and its largest deviations.

    Raises:
        FormatError: if it is of neither kind.
    """
    if "n_tensors" in _read(path):
        worst = replay_trajectory(path)
        return all(worst[name] <= TOLERANCES[name] for name in TOLERANCES), worst
    from eval.problem_conformance import replay as replay_problems

    try:
        result = replay_problems(path)
    except ValueError as error:
        raise FormatError(f"{path}: {error}") from None
    return result.pop("passed"), result


def main(argv: list[str]) -> int:
    """The command. Returns the exit status: 0 reproduced, 1 not, 2 a file that cannot be read."""
    paths = argv[1:]
    if not paths:
        print("eval conformance: name at least one FILE.", file=sys.stderr)
        return 2
    report, passed = {}, True
    for path in paths:
        try:
            ok, worst = replay(path)
        except FormatError as error:
            print(f"eval conformance: {error}", file=sys.stderr)
            return 2
        passed &= ok
        report[Path(path).name] = worst
        if not FLAGS.json:
            cells = "  ".join(
                f"{name} {value:.2g}" for name, value in worst.items()
                if isinstance(value, float))
            print(f"{'pass' if ok else 'FAIL'}  {Path(path).name}  {cells}")
    if FLAGS.json:
        print(json.dumps({"passed": passed, "files": report}))
    return 0 if passed else 1
