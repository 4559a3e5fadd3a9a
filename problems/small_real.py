"""`small_real`: small networks of many kinds on real data, for learning optimizers.

A row of a table is one program. Whatever may vary without a new program varies with every
instance: the source, the classes or columns, the samples and how many of them are different, the
noise, the scale of inputs and start, and that of the parameters (Moudgil et al. 2026, "Celo2": the
function is the same, the optimizer sees it through p / c with c = 10^U(-3, 3)).
"""

import dataclasses
import math

from problems.autoencoder import Autoencoder
from problems.networks import FullyConnected
from problems.patch_convnet import ConvAutoencoder, PatchConvNet
from problems.perceptrons import NormalizedPerceptron, Regressor
from problems.problem import Problem
from problems.real_data import Pictures, Tables, Text
from problems.sequences import AttentionLanguageModel, RecurrentLanguageModel, RowReader
from problems.transformers import PatchTransformer
from problems.transforms import RandomRescale

# What may be learned by heart, and what may not: the wrong labels of 4,096 samples are too many.
_FEW, _NOISY = {"few_decades": 2.0}, {"noise": 0.3}
# The objective is on the first of the samples: going through all would cost more than a step.
_COMMON = {"samples": 4096, "objective_samples": 512, "init_decades": 0.25}
_PLAIN = {**_COMMON, "l2": 0.0}


def _perceptrons() -> list[Problem]:
    """Multi-layer perceptrons, on pictures and on tables."""
    pictures = Pictures(projected=0.3)
    # features, classes, hidden, activation, start, minibatch, data
    table = (
        (64, 10, (32,), "relu", "he", 64, pictures),
        (64, 10, (32,), "sigmoid", "paper", 32, pictures),
        (36, 6, (24, 24, 24), "tanh", "glorot", 16, pictures),
        (16, 3, (32, 32), "silu", "he", 8, Tables()),
    )
    problems = [
        FullyConnected(
            features, classes, hidden, activation, data=data, init=init, batch_size=batch,
            **_PLAIN)
        for features, classes, hidden, activation, init, batch, data in table
    ]
    problems += [
        NormalizedPerceptron(64, 10, (24, 24), "gelu", data=pictures, batch_size=128, **_PLAIN),
        Regressor(16, (40, 20), "relu", init="he", batch_size=256, **_COMMON),
    ]
    return problems


def _convnets() -> list[Problem]:
    # layers, activation, norm, minibatch
    table = (
        (((3, 1, 8), (3, 2, 16)), "relu", "none", 32),
        (((3, 2, 12), (3, 1, 12)), "relu", "batch", 64),
        (((2, 2, 16), (3, 2, 12)), "silu", "layer", 16),
    )
    return [
        PatchConvNet(8, 10, layers, activation, norm, batch_size=batch, **_PLAIN)
        for layers, activation, norm, batch in table
    ]


def _recurrent() -> list[Problem]:
    return [
        RowReader(8, 10, 20, batch_size=32, **_PLAIN),
        RecurrentLanguageModel(32, 10, 16, data=Text(), batch_size=16, **_COMMON),
    ]


def _transformers() -> list[Problem]:
    return [
        PatchTransformer(8, 2, 10, 16, batch_size=32, **_PLAIN),
        AttentionLanguageModel(32, 12, 16, data=Text(), batch_size=32, **_COMMON),
    ]


def _autoencoders() -> list[Problem]:
    pictures = {"data": Pictures(), "classes": 10, **_COMMON}
    return [
        Autoencoder(64, (24, 8, 24), "tanh", batch_size=32, **pictures),
        Autoencoder(64, (20,), "sigmoid", batch_size=128, init="paper", **pictures),
        ConvAutoencoder(8, (12, 6), "relu", batch_size=32, **_COMMON),
    ]


def _both(problem: Problem) -> list[Problem]:
    """The problem on few samples, and on many with noise: one program."""
    return [
        RandomRescale(
            dataclasses.replace(problem, data=dataclasses.replace(problem.data, **variant)),
            common_decades=3.0,
            tensor_decades=0.5,
        )
        for variant in (_FEW, _NOISY)
    ]


def small_real_mlp() -> list[Problem]:
    """The perceptrons of `small_real` alone."""
    return [variant for problem in _perceptrons() for variant in _both(problem)]


def small_real() -> list[Problem]:
    """All, and each kind of network as often as another."""
    kinds = _perceptrons(), _convnets(), _recurrent(), _transformers(), _autoencoders()
    times = math.lcm(*map(len, kinds))
    once = [p for kind in kinds for p in kind * (times // len(kind))]
    return [variant for problem in once for variant in _both(problem)]
