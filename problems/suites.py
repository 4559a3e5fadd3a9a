"""The named sets of problems.

Paper: appendix, "meta-training set". The released program's `problem_sets` gives the numbers.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable

from problems.broad import broad
from problems.chains import DependencyChain, MinMaxWell, OutwardSnake
from problems.convnet import ConvNet
from problems.datasets import Clusters, Digits, Glyphs, Pixels, RandomMLP, Teacher
from problems.directions import ProjectionQuadratic, SumOfQuadratics
from problems.embeddings import OneHotSparseSoftmaxRegression, SparseSoftmaxRegression
from problems.functions_2d import (
    Ackley,
    Beale,
    Booth,
    Branin,
    LogSumExp,
    Matyas,
    Michalewicz,
    Rosenbrock,
    StyblinskiTang,
)
from problems.held_out import small_real_valid
from problems.matmul import MatMulAlgorithm
from problems.mnist import MNIST
from problems.networks import FullyConnected, SoftmaxRegression
from problems.problem import Problem
from problems.quadratic import Bowl, Norm, Quadratic
from problems.small_real import small_real, small_real_mlp
from problems.transforms import LogObjective, RandomRescale, Rescale, SparseGradients, SumOf

Suite = list[Problem]

_sets: dict[str, Callable[[], Suite]] = {}


def add_suite(name: str, build: Callable[[], Iterable[Problem]]) -> None:
    """Makes `suite(name)` return `list(build())`.

    Raises:
      ValueError: the name is taken.
    """
    if name in _sets:
        raise ValueError(f"add_suite: the name {name!r} is taken.")
    _sets[name] = lambda: list(build())


def suite_names() -> list[str]:
    """The names that `suite` takes."""
    return sorted(_sets)


def suite(name: str, data_dir: str = "") -> Suite:
    """The problems of a named set, in a fixed order.

    `paper` and `released` are the sets of the two sources (the paper's without neural networks),
    `all` is `released` with the sets that are off by default, `test` is never meta-trained on,
    `broad` and `small_real` are this project's own, `small_real_valid` is for judging what learned
    on the latter; every set that they are made of has its name too. A problem
    that is listed twice is wanted twice as often.

    Args:
      name: one of `suite_names()`.
      data_dir: where the MNIST problems of `test` find their files; needed for their instances.

    Raises:
      ValueError: no such suite.
    """
    if name not in _sets:
        raise ValueError(f"suite: unknown name {name!r}; known are {', '.join(suite_names())}.")
    return [_with_data_dir(problem, data_dir) for problem in _sets[name]()]


def _with_data_dir(problem: Problem, data_dir: str) -> Problem:
    if data_dir and isinstance(getattr(problem, "data", None), MNIST):
        return dataclasses.replace(problem, data=MNIST(data_dir=data_dir))
    return problem


def _set(build: Callable[[], Suite]) -> Callable[[], Suite]:
    add_suite(build.__name__, build)
    return build


def functions(noise_stdev: float = 0.0) -> Suite:
    """The nine functions of two variables."""
    names = (
        Rosenbrock,
        LogSumExp,
        Ackley,
        Beale,
        Booth,
        StyblinskiTang,
        Matyas,
        Branin,
        Michalewicz,
    )
    return [cls(noise_stdev=noise_stdev) for cls in names]


def _quadratics(*sizes: int) -> Suite:
    return [Quadratic(n) for n in sizes]


def _bowls(noise_stdev: float = 0.0) -> Suite:
    settings = (0.1, 0.0), (1.0, 0.0), (5.0, 0.0), (5.0, math.pi / 4)
    return [Bowl(c, angle=a, noise_stdev=noise_stdev) for c, a in settings]


def _softmax(noise_stdevs: tuple[float, ...]) -> Suite:
    settings = (10, 2.0, 100), (100, 1.0, 50), (200, 1.5, 20), (256, 1.5, 100)
    return [
        SoftmaxRegression(f, data=Clusters(sep=sep), batch_size=batch, noise_stdev=noise)
        for (f, sep, batch), noise in zip(settings, noise_stdevs, strict=True)
    ]


@_set
def quadratic() -> Suite:
    return _quadratics(20, 25, 50, 100)


@_set
def quadratic_noisy() -> Suite:
    settings = (20, 0.5), (25, 0.0), (50, 1.0), (100, 2.0)
    return [Quadratic(n, noise_stdev=noise) for n, noise in settings]


@_set
def quadratic_large() -> Suite:
    return _quadratics(784, 1024, 2048)


@_set
def bowl() -> Suite:
    return _bowls()


@_set
def bowl_noisy() -> Suite:
    return _bowls(noise_stdev=0.1)


@_set
def softmax() -> Suite:
    return _softmax((0.0, 0.0, 0.0, 0.0))


@_set
def softmax_noisy() -> Suite:
    return _softmax((0.5, 0.1, 0.1, 0.5))


@_set
def functions_2d() -> Suite:
    return functions()


@_set
def functions_2d_noisy() -> Suite:
    return functions(noise_stdev=1.0)


def _random_mlp_tasks() -> Suite:
    settings = (
        (8, (8, 5), 10),
        (12, (8, 5, 3), 200),
        (5, (4, 4, 4, 4), 100),
        (11, (4, 5, 6), 64),
        (9, (8,), 128),
        (7, (8, 5), 16),
        (8, (32, 64), 10),
        (12, (16, 8, 3), 200),
        (5, (8, 8, 8, 8), 100),
        (11, (10, 12, 12), 64),
        (9, (32,), 128),
        (7, (32, 64), 16),
    )
    return [
        FullyConnected(f, 2, hidden, data=RandomMLP(), batch_size=batch)
        for f, hidden, batch in settings
    ]


@_set
def fully_connected() -> Suite:
    return _random_mlp_tasks()


@_set
def matmul() -> Suite:
    small = [MatMulAlgorithm(2, k) for k in range(5, 9)]
    return small + [MatMulAlgorithm(3, k) for k in range(19, 25)]


@_set
def log_objective() -> Suite:
    inner = _quadratics(20, 50, 100) + [Bowl(c) for c in (0.1, 1.0, 5.0)]
    return [LogObjective(problem) for problem in inner]


@_set
def rescale() -> Suite:
    norms = (2.5, 0.123), (1.5, 8.0), (2.0, 50.0), (3.0, 200.0), (1.0, 1000.0)
    quadratics = (20, 0.1), (25, 10.0), (50, 350.0), (100, 132.0)
    return [Rescale(Norm(18, p=p), scale=scale) for p, scale in norms] + [
        Rescale(Quadratic(n), scale=scale) for n, scale in quadratics
    ]


@_set
def norm() -> Suite:
    return [Norm(n, p=p) for n, p in ((27, 1.0), (25, 2.0), (22, 3.0))]


@_set
def norm_noisy() -> Suite:
    return [Norm(n, p=p, noise_stdev=0.1) for n, p in ((19, 1.0), (26, 2.0), (23, 3.0))]


@_set
def sums() -> Suite:
    return [
        SumOf(_quadratics(11, 3, 9, 7, 5, 13, 12)),
        SumOf([Norm(18, p=3.0), Quadratic(25), Rosenbrock()]),
        SumOf(functions()),
        SumOf(functions() + _quadratics(5, 13)),
        SumOf(_quadratics(11, 3)),
        SumOf([Rosenbrock(), LogSumExp(), Ackley()]),
    ]


@_set
def sums_noisy() -> Suite:
    return [
        SumOf([Quadratic(n, noise_stdev=0.1) for n in (11, 3, 9, 7, 5, 13, 12)]),
        SumOf([*functions(), Quadratic(5), Quadratic(13, noise_stdev=0.5)]),
    ]


@_set
def sparse() -> Suite:
    inner = _quadratics(20, 50, 100) + [Bowl(c) for c in (0.1, 1.0, 5.0)]
    return [SparseGradients(problem) for problem in inner]


@_set
def sparse_fully_connected() -> Suite:
    return [SparseGradients(problem) for problem in _random_mlp_tasks()[:3]]


@_set
def sparse_softmax() -> Suite:
    return [SparseSoftmaxRegression(5, samples=5)]


@_set
def one_hot_sparse_softmax() -> Suite:
    return [OneHotSparseSoftmaxRegression(5, samples=5)]


def _data_settings() -> list[tuple[int, int, int]]:
    """(n, samples, batch) of the sets over vectors."""
    sizes = (20, 1000), (12, 200), (56, 5000), (64, 1000), (13, 10000)
    batches = (100, 10, 100, 50, 50), (128, 16, 128, 64, 32)
    return [(n, s, b) for series in batches for (n, s), b in zip(sizes, series, strict=True)]


@_set
def sum_of_quadratics() -> Suite:
    return [SumOfQuadratics(n, samples=s, batch_size=b) for n, s, b in _data_settings()]


@_set
def projection_quadratic() -> Suite:
    return [ProjectionQuadratic(n, samples=s, batch_size=b) for n, s, b in _data_settings()]


@_set
def outward_snake() -> Suite:
    return [OutwardSnake(n, samples=s, batch_size=b) for n, s, b in _data_settings()]


@_set
def dependency_chain() -> Suite:
    # The released program hands this problem data and batches too, which it ignores: its two
    # series of batch sizes are one.
    return [DependencyChain(n) for n in (20, 12, 56, 64, 13)]


@_set
def min_max_well() -> Suite:
    return [MinMaxWell(n) for n in (20, 12, 56, 64, 13)]


def _join(*names: str) -> Suite:
    return [problem for name in names for problem in suite(name)]


@_set
def paper() -> Suite:
    return _join(
        "quadratic_noisy",
        "quadratic_large",
        "bowl",
        "bowl_noisy",
        "softmax",
        "softmax_noisy",
        "functions_2d",
        "functions_2d_noisy",
        "matmul",
        "log_objective",
        "rescale",
        "norm",
        "norm_noisy",
        "sums",
        "sums_noisy",
        "sparse",
    )


@_set
def released() -> Suite:
    return _join("paper", "fully_connected", "sparse_fully_connected")


def _all() -> Suite:
    return _join(
        "released",
        "quadratic",
        "sparse_softmax",
        "one_hot_sparse_softmax",
        "sum_of_quadratics",
        "projection_quadratic",
        "outward_snake",
        "dependency_chain",
        "min_max_well",
    )


add_suite("all", _all)


@_set
def test() -> Suite:
    clusters = {"samples": 10000, "batch_size": 100}
    mnist = {"data": MNIST(), "samples": 60000, "batch_size": 64}
    return [
        Quadratic(20),
        Quadratic(20, noise_stdev=1.0),
        Rosenbrock(),
        Rosenbrock(noise_stdev=1.0),
        SoftmaxRegression(10, **clusters),
        SoftmaxRegression(10, noise_stdev=1.0, **clusters),
        FullyConnected(10, 2, (32, 64), **clusters),
        FullyConnected(20, 10, (32, 64), **clusters),
        FullyConnected(784, 10, (64,), "sigmoid", **mnist),
        FullyConnected(784, 10, (64,), "relu", **mnist),
        ConvNet((28, 28, 1), 10, ((3, 3, 8), (5, 5, 8)), "sigmoid", **mnist),
        ConvNet((28, 28, 1), 10, ((3, 3, 8), (5, 5, 8)), "relu", **mnist),
    ]


add_suite("broad", broad)
add_suite("small_real", small_real)
add_suite("small_real_mlp", small_real_mlp)
add_suite("small_real_valid", small_real_valid)


@_set
def streams() -> Suite:
    """Networks on more data than they can learn by heart in a run, as most real training is: the
    loss is bound by the noise of the minibatches, and the step size must come down to it."""
    large = {"samples": 4096, "objective_samples": 256, "l2": 0.0, "init_decades": 0.25}
    digits = {**large, "samples": 1536, "data": Digits(scale_decades=0.5)}
    noisy = Pixels(Clusters(sep=1.0), label_noise=0.1, scale_decades=0.5)
    pixels = Pixels(Clusters(sep=1.0), scale_decades=0.5)
    networks = [
        FullyConnected(
            64, 10, (64,), "relu", data=pixels, batch_size=64, init="paper", **large),
        FullyConnected(
            96, 10, (32,), "sigmoid", data=pixels, batch_size=32, **large),
        FullyConnected(
            24, 5, (32, 32), "tanh", data=Teacher(scale_decades=0.5), batch_size=128,
            init="glorot", **large),
        FullyConnected(64, 10, (48,), "relu", batch_size=64, init="he", **digits),
        FullyConnected(48, 8, (24, 24, 24), "relu", data=noisy, batch_size=16, init="he", **large),
        ConvNet(
            (8, 8, 1), 10, ((3, 3, 4), (3, 3, 4)), "relu", batch_size=32, init="he",
            **digits),
    ]
    return [
        RandomRescale(problem, common_decades=1.0, tensor_decades=0.5) if i % 2 else problem
        for i, problem in enumerate(networks)
    ]


@_set
def glyphs() -> Suite:
    """Classifiers of small pictures, of which there are more than a run of 1,000 steps sees: what
    `streams` is for, with inputs alike in kind to those of real picture classification."""
    data = Glyphs(scale_decades=0.2)
    large = {"data": data, "samples": 32768, "objective_samples": 2048, "l2": 0.0}
    return [
        FullyConnected(196, 10, (32,), "relu", batch_size=64, **large),
        FullyConnected(196, 10, (32,), "sigmoid", batch_size=64, **large),
        FullyConnected(144, 10, (24, 24), "tanh", batch_size=32, init="glorot", **large),
        FullyConnected(256, 10, (20,), "relu", batch_size=128, init="he", **large),
    ]


@_set
def glyphs_varied() -> Suite:
    """As `glyphs`, of all that the best size of a step depends on: units of 16 to 784 inputs,
    batches of 16 to 256, pictures that are easily told apart and that are not, and wrong labels. On
    networks that are alike, a learned rule for step sizes learns the one size."""

    def network(inputs: int, hidden: tuple[int, ...], activation: str, batch: int, spread: float,
                label_noise: float = 0.0, init: str = "he") -> FullyConnected:
        data = Glyphs(spread, label_noise=label_noise, scale_decades=0.2)
        return FullyConnected(
            inputs, 10, hidden, activation, data=data, batch_size=batch, init=init,
            samples=16_384 if inputs > 400 else 32_768, objective_samples=2048, l2=0.0)

    return [
        network(784, (24,), "relu", 64, 0.3),
        network(784, (16,), "sigmoid", 64, 0.3, init="paper"),
        network(400, (24,), "relu", 32, 1.0),
        network(256, (32,), "relu", 256, 0.3, init="paper"),
        network(196, (32, 16), "tanh", 16, 0.3, init="glorot"),
        network(196, (32,), "relu", 64, 0.3, label_noise=0.1),
        network(144, (64,), "sigmoid", 128, 1.0, init="paper"),
        network(64, (48, 32), "relu", 32, 0.3),
    ]


@_set
def broad_core() -> Suite:
    """A dozen of `broad`, of every kind in it: fewer programs to compile than its 55."""
    problems = broad()
    return [problems[i] for i in (3, 7, 12, 15, 16, 22, 25, 26, 29, 36, 41, 52)]
