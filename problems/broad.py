"""`broad`: small tasks with the variety of real training, for the weights that ship.

Not the paper's. The table fixes shapes, so the number of programs; what may vary without a new
program varies with every instance: inputs, labels and start scales, and how much larger each
tensor lives than the others. No data set that is kept for evaluation appears here.
"""

from problems.autoencoder import Autoencoder
from problems.convnet import ConvNet
from problems.datasets import Clusters, Digits, RandomMLP, Teacher
from problems.networks import FullyConnected, SoftmaxRegression
from problems.problem import Problem
from problems.quadratic import PowerLawQuadratic
from problems.sequences import AttentionLanguageModel, MarkovText, RecurrentLanguageModel
from problems.transforms import RandomRescale


def _perceptrons() -> list[Problem]:
    clusters = Clusters(sep=1.0, scale_decades=0.5)
    easy = Clusters(sep=2.0, scale_decades=1.0)
    noisy = Clusters(sep=1.5, label_noise=0.1, scale_decades=0.5)
    teacher = Teacher(scale_decades=0.5)
    deep = Teacher(depth=4, width=16, label_noise=0.05, scale_decades=0.5)
    digits = Digits(scale_decades=0.5)
    scribbles = Digits(label_noise=0.1, scale_decades=1.0)
    # features, classes, hidden, activation, start, minibatch, samples, data
    table = (
        (4, 3, (32,), "relu", "he", 1, 256, teacher),
        (4, 2, (16, 16), "tanh", "glorot", 16, 256, RandomMLP()),
        (6, 5, (24,), "gelu", "he", 8, 256, easy),
        (8, 2, (32, 32), "sigmoid", "paper", 32, 256, RandomMLP(scale_decades=0.5)),
        (8, 8, (16, 16), "relu", "glorot", 64, 256, noisy),
        (8, 4, (8, 8, 8, 8), "tanh", "paper", 128, 512, teacher),
        (10, 6, (64,), "sigmoid", "glorot", 2, 256, deep),
        (10, 10, (32, 16), "relu", "small", 32, 256, clusters),
        (12, 3, (16, 16, 16), "gelu", "glorot", 16, 256, deep),
        (12, 7, (48,), "tanh", "small", 64, 256, noisy),
        (16, 2, (12, 8), "relu", "he", 4, 256, clusters),
        (16, 4, (32, 32), "relu", "he", 512, 1024, teacher),
        (16, 10, (20, 20, 20), "relu", "he", 32, 256, easy),
        (16, 3, (64,), "gelu", "small", 8, 256, deep),
        (20, 5, (32,), "tanh", "glorot", 256, 512, clusters),
        (20, 2, (24, 24), "sigmoid", "glorot", 64, 256, teacher),
        (24, 9, (40,), "relu", "paper", 16, 256, noisy),
        (24, 4, (16, 16, 16, 16), "relu", "he", 64, 256, easy),
        (32, 6, (32, 16), "gelu", "he", 128, 512, teacher),
        (32, 3, (64, 32), "relu", "glorot", 32, 256, clusters),
        (32, 10, (24, 24), "tanh", "paper", 1, 256, easy),
        (40, 8, (32, 32, 32), "sigmoid", "paper", 64, 256, deep),
        (48, 5, (48,), "relu", "he", 16, 256, noisy),
        (64, 10, (64, 64), "gelu", "glorot", 64, 256, clusters),
        (64, 2, (16,), "sigmoid", "small", 32, 256, teacher),
        (64, 10, (32,), "relu", "he", 64, 512, digits),
        (64, 10, (32,), "sigmoid", "paper", 32, 256, digits),
        (64, 10, (16, 16), "tanh", "glorot", 16, 256, scribbles),
        (64, 5, (24, 24), "relu", "glorot", 128, 512, digits),
        (64, 10, (64, 32), "relu", "paper", 8, 256, scribbles),
        (64, 3, (8, 8, 8), "gelu", "he", 1, 256, digits),
        (64, 10, (20,), "gelu", "small", 256, 512, scribbles),
        (64, 10, (128, 64), "relu", "he", 64, 256, digits),
    )
    return [
        FullyConnected(
            features,
            classes,
            hidden,
            activation,
            data=data,
            samples=samples,
            batch_size=batch_size,
            init=init,
            init_decades=0.25,
            l2=0.0,
        )
        for features, classes, hidden, activation, init, batch_size, samples, data in table
    ]


def _softmax() -> list[Problem]:
    return [
        SoftmaxRegression(64, 10, data=Digits(scale_decades=1.0), samples=256, batch_size=16),
        SoftmaxRegression(32, 5, data=Clusters(scale_decades=1.0), samples=256, batch_size=4),
    ]


def _convnets() -> list[Problem]:
    # classes, filters, activation, start, minibatch
    table = (
        (10, ((3, 3, 4),), "relu", "he", 32),
        (10, ((3, 3, 4), (3, 3, 4)), "gelu", "glorot", 16),
        (4, ((3, 3, 8), (3, 3, 4)), "relu", "he", 64),
        (3, ((5, 5, 4), (3, 3, 8)), "tanh", "glorot", 8),
        (5, ((3, 3, 2), (3, 3, 4), (3, 3, 4)), "relu", "glorot", 32),
        (10, ((3, 3, 4), (5, 5, 4)), "sigmoid", "small", 32),
    )
    return [
        ConvNet(
            (8, 8, 1),
            classes,
            filters,
            activation,
            data=Digits(scale_decades=0.5),
            samples=256,
            batch_size=batch_size,
            init=init,
            init_decades=0.25,
        )
        for classes, filters, activation, init, batch_size in table
    ]


def _autoencoders() -> list[Problem]:
    # hidden, activation, start, minibatch
    table = (
        ((16,), "tanh", "glorot", 16),
        ((32, 8, 32), "relu", "he", 64),
        ((24, 4, 24), "gelu", "glorot", 32),
        ((32,), "sigmoid", "paper", 128),
    )
    return [
        Autoencoder(
            64,
            hidden,
            activation,
            data=Digits(scale_decades=0.25),
            samples=256,
            batch_size=batch_size,
            init=init,
            init_decades=0.25,
        )
        for hidden, activation, init, batch_size in table
    ]


def _language_models() -> list[Problem]:
    text = MarkovText(sharpness=2.0)
    return [
        RecurrentLanguageModel(8, 8, 16, data=text, batch_size=16),
        RecurrentLanguageModel(16, 6, 12, data=text, batch_size=64, init="paper"),
        AttentionLanguageModel(8, 8, 16, data=text, batch_size=16),
        AttentionLanguageModel(16, 12, 16, data=MarkovText(sharpness=3.0), batch_size=64),
    ]


def _quadratics() -> list[Problem]:
    settings = (50, 0.0), (200, 0.1), (500, 0.0), (1000, 0.1), (3000, 0.0), (10000, 0.01)
    return [
        RandomRescale(
            PowerLawQuadratic(n, noise_stdev=noise), common_decades=1.5, tensor_decades=0.0
        )
        for n, noise in settings
    ]


def broad() -> list[Problem]:
    """The suite's problems: networks mostly, every second one randomly rescaled."""
    networks = [
        *_perceptrons(),
        *_softmax(),
        *_convnets(),
        *_autoencoders(),
        *_language_models(),
    ]
    return [
        RandomRescale(problem, common_decades=1.0, tensor_decades=0.5) if i % 2 else problem
        for i, problem in enumerate(networks)
    ] + _quadratics()
