"""Replays values and gradients that the authors' released program computed for the problems.

A file holds `{problem}/{j}/param/{i}`, `{problem}/{j}/grad/{i}` and `{problem}/{j}/objective` for
several points j, and what is random about the problem: `{problem}/w`, `/y`, `/data`, `/labels`.
"""

import dataclasses
import pathlib
import re
import zipfile
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import problems
from problems.networks import ACTIVATIONS
from problems.problem import Instance, Problem

TOLERANCE = 1e-5
# Where values exceed LARGE, the released program's own float32 arithmetic is good for less.
LARGE = 1e4
LARGE_TOLERANCE = 1e-4

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Deviation:
    """The largest deviations of a problem over its points, relative to the largest entry.

    Attributes:
      value: of the objective.
      gradient: of a tensor's gradient, max |g - reference| / max |reference|.
      passed: whether each deviation is within its tolerance: 1e-5, or 1e-4 for an objective or a
        gradient tensor with an entry above 1e4.
    """

    value: float
    gradient: float
    passed: bool


@dataclasses.dataclass
class _Recorded:
    """One problem of a file: its random arrays, and its points by number."""

    arrays: Arrays
    points: dict[int, Arrays]


def replay(path: str | pathlib.Path) -> dict[str, Deviation]:
    """Computes every point of a file anew, in float32 as in training.

    Args:
      path: an `.npz` file of the format above.

    Returns:
      For each problem's name in the file, its `Deviation`.

    Raises:
      ValueError: the file is not of the format, or names a problem that does not exist.
    """
    return {name: _replay(name, recorded) for name, recorded in _read(path).items()}


def _read(path: str | pathlib.Path) -> dict[str, _Recorded]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("no archive")
            content = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a readable .npz file ({error}).") from error
    if not content:
        raise ValueError(f"{path}: holds no problems.")
    found: dict[str, _Recorded] = {}
    for key, array in content.items():
        match = re.fullmatch(
            r"(?P<name>[^/]+)/"
            r"(?:(?P<array>w|y|data|labels)|(?P<point>\d+)/(?P<item>objective|(?:param|grad)/\d+))",
            key,
        )
        if match is None:
            raise ValueError(f"{path}: {key!r} is no key of a problem file.")
        if array.dtype.kind not in "fiu" or not np.all(np.isfinite(array)):
            raise ValueError(f"{path}: {key!r} must hold finite numbers.")
        recorded = found.setdefault(match["name"], _Recorded({}, {}))
        if match["array"]:
            recorded.arrays[match["array"]] = array
        else:
            recorded.points.setdefault(int(match["point"]), {})[match["item"]] = array
    for name, recorded in found.items():
        if not recorded.points:
            raise ValueError(f"{path}: {name!r} has no points.")
        for j, point in recorded.points.items():
            count = sum(item.startswith("param/") for item in point)
            expected = {"objective"}
            expected |= {f"{kind}/{i}" for kind in ("param", "grad") for i in range(count)}
            if count == 0 or set(point) != expected:
                raise ValueError(
                    f"{path}: {name}/{j} must hold objective and as many param as grad tensors, "
                    f"numbered from 0; got {', '.join(sorted(point))}."
                )
            if point["objective"].size != 1:
                raise ValueError(f"{path}: {name}/{j}/objective must be a single number.")
    return found


def _parameters(point: Arrays) -> tuple[np.ndarray, ...]:
    count = sum(item.startswith("param/") for item in point)
    return tuple(point[f"param/{i}"] for i in range(count))


def _replay(name: str, recorded: _Recorded) -> Deviation:
    first = _parameters(next(iter(recorded.points.values())))
    try:
        problem = _problem(name, recorded.arrays, first)
        instance = _instance(problem, recorded.arrays)
    except KeyError as error:
        raise ValueError(f"{name}: the file lacks {name}/{error.args[0]}.") from error
    evaluate = jax.jit(jax.value_and_grad(problem.objective))
    worst_value, worst_gradient, passed = 0.0, 0.0, True
    for j, point in recorded.points.items():
        parameters = tuple(jnp.asarray(p, jnp.float32) for p in _parameters(point))
        if tuple(p.shape for p in parameters) != problem.shapes:
            raise ValueError(
                f"{name}/{j}: {problem} has tensors of shapes {problem.shapes}; "
                f"got {tuple(p.shape for p in parameters)}."
            )
        value, gradient = evaluate(parameters, instance)
        off, within = _compare(np.asarray(value), point["objective"], f"{name}/{j}/objective")
        worst_value, passed = max(worst_value, off), passed and within
        for i, tensor in enumerate(gradient):
            key = f"{name}/{j}/grad/{i}"
            off, within = _compare(np.asarray(tensor), point[f"grad/{i}"], key)
            worst_gradient, passed = max(worst_gradient, off), passed and within
    return Deviation(worst_value, worst_gradient, passed)


def _compare(ours: np.ndarray, reference: np.ndarray, key: str) -> tuple[float, bool]:
    """The largest relative deviation, and whether it is within the tolerance."""
    reference = reference.astype(np.float64)
    if ours.size != reference.size or (ours.ndim and ours.shape != reference.shape):
        raise ValueError(f"{key}: has shape {reference.shape}; expected {ours.shape}.")
    size = float(np.max(np.abs(reference)))
    distance = float(np.max(np.abs(ours.astype(np.float64).reshape(reference.shape) - reference)))
    if not np.isfinite(distance):
        return float("inf"), False
    relative = distance if size == 0 else distance / size
    return relative, relative <= (LARGE_TOLERANCE if size > LARGE else TOLERANCE)


_FUNCTIONS = {
    "ackley": problems.Ackley,
    "beale": problems.Beale,
    "booth": problems.Booth,
    "branin": problems.Branin,
    "logsumexp": problems.LogSumExp,
    "matyas": problems.Matyas,
    "michalewicz": problems.Michalewicz,
    "rosenbrock": problems.Rosenbrock,
    "saddle": problems.Saddle,
    "styblinskitang": problems.StyblinskiTang,
}

_VECTORS = {
    "quadratic": problems.Quadratic,
    "min_max_well": problems.MinMaxWell,
    "dependency_chain": problems.DependencyChain,
}

_DATA = {
    "outward_snake": problems.OutwardSnake,
    "projection_quadratic": problems.ProjectionQuadratic,
    "sum_of_quadratics": problems.SumOfQuadratics,
    "softmax_regression": problems.SoftmaxRegression,
    "sparse_softmax": problems.SparseSoftmaxRegression,
    "one_hot_sparse_softmax": problems.OneHotSparseSoftmaxRegression,
}

_NUMBER = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"

Tensors = tuple[np.ndarray, ...]


def _problem(name: str, arrays: Arrays, tensors: Tensors) -> Problem:
    """The spec that a name in a file means; sizes that the name leaves out are the tensors'."""
    problem = _parse(name, arrays, tensors)
    if problem is None:
        raise ValueError(f"{name!r} is no problem that is known here.")
    return problem


def _parse(name: str, arrays: Arrays, tensors: Tensors) -> Problem | None:
    for pattern, build in _FAMILIES:
        match = re.fullmatch(pattern, name)
        if match is not None:
            return build(match, arrays, tensors)
    inner = re.fullmatch(rf"rescale_({_NUMBER})_(.+)", name)
    if inner is not None and (problem := _parse(inner[2], arrays, tensors)) is not None:
        return problems.Rescale(problem, scale=float(inner[1]))
    inner = re.fullmatch(r"log_(.+)", name)
    if inner is not None and (problem := _parse(inner[1], arrays, tensors)) is not None:
        return problems.LogObjective(problem)
    inner = re.fullmatch(r"sum_(.+)", name)
    if inner is not None and (parts := _parse_parts(inner[1], arrays, tensors)):
        return problems.SumOf(parts)
    return None


def _parse_parts(text: str, arrays: Arrays, tensors: Tensors) -> tuple[Problem, ...]:
    """The terms of a sum, whose names may hold underscores too; () where the text is none."""
    words = text.split("_")
    for end in range(len(words), 0, -1):
        head = _parse("_".join(words[:end]), arrays, tensors)
        if head is None:
            continue
        if end == len(words):
            return (head,)
        tail = _parse_parts("_".join(words[end:]), arrays, tensors[len(head.shapes) :])
        if tail:
            return (head, *tail)
    return ()


def _instance(problem: Problem, arrays: Arrays) -> Instance:
    """The instance that `sample_instance` would make, with the file's arrays for its draws."""
    if isinstance(problem, problems.SumOf):
        return {"problems": tuple(_instance(p, arrays) for p in problem.problems)}
    numbers = problem.numbers
    if isinstance(problem, problems.Rescale | problems.LogObjective):
        return numbers | {"problem": _instance(problem.problem, arrays)}
    needed = jax.eval_shape(problem.sample_instance, jax.random.key(0))
    drawn = {k: jnp.asarray(arrays[k]) for k in ("w", "y", "data", "labels") if k in needed}
    return numbers | drawn


def _size(text: str | None, tensors: Tensors, axis: int = 0) -> int:
    return int(text) if text else tensors[0].shape[axis]


def _vector(match: re.Match, arrays: Arrays, tensors: Tensors) -> Problem:
    chain = match[1] == "dependency_chain" and match[2] is None
    return _VECTORS[match[1]](_size(match[2], tensors) - chain)


def _norm(match: re.Match, arrays: Arrays, tensors: Tensors) -> Problem:
    return problems.Norm(_size(match[1], tensors), p=float(match[2]))


def _bowl(match: re.Match, arrays: Arrays, tensors: Tensors) -> Problem:
    return problems.Bowl(float(match[1]), angle=float(np.deg2rad(float(match[2] or 0))))


def _function(match: re.Match, arrays: Arrays, tensors: Tensors) -> Problem:
    return _FUNCTIONS[match[1]]()


def _matmul(match: re.Match, arrays: Arrays, tensors: Tensors) -> Problem:
    return problems.MatMulAlgorithm(int(match[1]), int(match[2]))


def _on_data(match: re.Match, arrays: Arrays, tensors: Tensors) -> Problem:
    axis = 0 if match[1] in ("outward_snake", "softmax_regression") else 1
    return _DATA[match[1]](_size(match[2], tensors, axis), samples=len(arrays["data"]))


def _fully_connected(match: re.Match, arrays: Arrays, tensors: Tensors) -> Problem:
    sizes = [tensor.shape[0] for tensor in tensors[::2]]
    if match[1]:
        sizes = [int(size) for size in match[1].split("_")]
    return problems.FullyConnected(
        sizes[0],
        tensors[-1].shape[0],
        sizes[1:],
        activation=match[2] or "sigmoid",
        samples=len(arrays["data"]),
    )


_FAMILIES: tuple[tuple[str, Callable[[re.Match, Arrays, Tensors], Problem]], ...] = (
    (rf"({'|'.join(_VECTORS)})(?:_(\d+))?", _vector),
    (rf"norm(?:_(\d+))?_p({_NUMBER})", _norm),
    (rf"bowl_({_NUMBER})(?:_(-?{_NUMBER})deg)?", _bowl),
    (rf"({'|'.join(_FUNCTIONS)})", _function),
    (r"matmul_(\d+)_(\d+)", _matmul),
    (rf"({'|'.join(_DATA)})(?:_(\d+))?", _on_data),
    (rf"fully_connected(?:_(\d+(?:_\d+)*))?(?:_({'|'.join(ACTIVATIONS)}))?", _fully_connected),
)
