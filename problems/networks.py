"""Classifiers on generated data: softmax regression, fully connected and convolutional networks."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from problems.datasets import Clusters, Dataset, log_uniform
from problems.minibatch import DataProblem
from problems.problem import Array, Instance, Parameters, is_whole, normal_like, number
from problems.registry import register

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda x: x,
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
}

Shapes = tuple[tuple[int, ...], ...]


def _paper(shape: tuple[int, ...]) -> float:
    return 1.2 / shape[0] ** 0.5


def _he(shape: tuple[int, ...]) -> float:
    return (2 / math.prod(shape[:-1])) ** 0.5 if len(shape) > 1 else 0.0


def _glorot(shape: tuple[int, ...]) -> float:
    fans = math.prod(shape[:-1]) + math.prod(shape[:-2]) * shape[-1]
    return (2 / fans) ** 0.5 if len(shape) > 1 else 0.0


# Standard deviation of a tensor's start, by its shape (..., fan in, fan out); a vector is a bias.
INITIALIZERS: dict[str, Callable[[tuple[int, ...]], float]] = {
    "paper": _paper,
    "he": _he,
    "glorot": _glorot,
    "small": lambda shape: 0.01,
}


@dataclasses.dataclass(frozen=True, repr=False)
class Network(DataProblem):
    """A problem whose parameters are a network's tensors, drawn as N(0, std(shape)^2).

    Args:
      init: "paper" (1.2 / sqrt(first dimension), biases too), "he", "glorot" (biases 0) or
        "small" (0.01 everywhere).
      init_decades: each instance's start is multiplied by 10^U(-d, d).
    """

    init: str = dataclasses.field(default="paper", kw_only=True)
    init_decades: float = number(0.0, kw_only=True)

    def check(self) -> None:
        super().check()
        self.require(self.init in INITIALIZERS, "init", f"one of {', '.join(INITIALIZERS)}")
        self.require(self.init_decades >= 0, "init_decades", "at least 0")
        for name in ("features", "classes"):
            if hasattr(self, name):
                self.require_count(name, least=2 if name == "classes" else 1)
        if hasattr(self, "activation"):
            allowed = f"one of {', '.join(ACTIVATIONS)}"
            self.require(self.activation in ACTIVATIONS, "activation", allowed)
        self.check_structure()
        self.data.check_sizes(self.samples, *self.data_sizes)

    def check_structure(self) -> None:
        """Raises ValueError for layer sizes that make no network."""

    def require_sizes(self, name: str) -> None:
        sizes = getattr(self, name)
        self.require(
            isinstance(sizes, tuple) and all(is_whole(s) and s >= 1 for s in sizes),
            name,
            "a tuple of integers of at least 1",
        )

    def draw(self, key: Array, numbers: dict[str, Any]) -> Instance:
        data_key, init_key = jax.random.split(key)
        scale = log_uniform(init_key, numbers["init_decades"])
        return super().draw(data_key, numbers) | {"init_scale": scale}

    def initial_parameters(self, key: Array, instance: Instance) -> Parameters:
        std = INITIALIZERS[self.init]
        shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in self.shapes]
        normals = normal_like(key, shapes)
        return tuple(instance["init_scale"] * std(tensor.shape) * tensor for tensor in normals)


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean over samples of -log softmax(logits)_label, at least 0 in floating point too."""
    chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - chosen)


def logistic_loss(logit: Array, labels: Array) -> Array:
    """Mean over samples of softplus(-z) for label 1 and softplus(z) for label 0."""
    return jnp.mean(jax.nn.softplus(jnp.where(labels == 1, -logit, logit)))


@dataclasses.dataclass(frozen=True, repr=False)
class Classifier(Network):
    """Cross entropy of a classifier plus l2 * mean over tensors of the tensor's sum of squares.

    With two classes, as in the released program, the loss is the logistic loss of the first
    logit; the second one gets a gradient from the penalty only.
    """

    l2: float = number(1e-3, kw_only=True)

    # With two classes only.
    first_logit_only = True

    def check(self) -> None:
        super().check()
        self.require(self.l2 >= 0, "l2", "at least 0")

    def logits(self, parameters: Parameters, data: Array) -> Array:
        """Logits (samples, classes)."""
        raise NotImplementedError

    def loss(
        self, parameters: Parameters, data: Array, labels: Array, instance: Instance
    ) -> Array:
        logits = self.logits(parameters, data)
        if logits.shape[1] == 2 and self.first_logit_only:
            loss = logistic_loss(logits[:, 0], labels)
        else:
            loss = cross_entropy(logits, labels)
        squares = sum(jnp.sum(tensor**2) for tensor in parameters)
        return loss + instance["l2"] * squares / len(parameters)


def affine_layers(
    parameters: Parameters, data: Array, activation: Callable[[Array], Array]
) -> Array:
    """x W_1 + b_1, then activation and affine in turn; parameters are W_1, b_1, W_2, ..."""
    weights, biases = parameters[::2], parameters[1::2]
    # Features first: else XLA transposes what the optimizer makes of a weight and computes it anew
    # for that, and takes ten times as long for the derivative by a weight of two columns.
    hidden = (data @ weights[0]).T + biases[0][:, None]
    for weight, bias in zip(weights[1:], biases[1:], strict=True):
        hidden = (activation(hidden).T @ weight).T + bias[:, None]
    return hidden.T


def affine_shapes(sizes: tuple[int, ...]) -> Shapes:
    """Weight and bias shapes of the layers between consecutive sizes."""
    pairs = itertools.pairwise(sizes)
    return tuple(shape for a, b in pairs for shape in ((a, b), (b,)))


@register
@dataclasses.dataclass(frozen=True, repr=False)
class SoftmaxRegression(Classifier):
    """x W + b with W (features, classes), b (classes,) under the loss of `Classifier`.

    Source: the paper's appendix; released program `SoftmaxRegression`.
    """

    features: int
    classes: int = 2
    data: Dataset = dataclasses.field(default=Clusters(), kw_only=True)

    @property
    def data_sizes(self) -> tuple[int, int]:
        return self.features, self.classes

    @property
    def shapes(self) -> Shapes:
        return affine_shapes((self.features, self.classes))

    def logits(self, parameters: Parameters, data: Array) -> Array:
        return affine_layers(parameters, data, ACTIVATIONS["identity"])


@register
@dataclasses.dataclass(frozen=True, repr=False)
class FullyConnected(Classifier):
    """A multi-layer perceptron, features -> hidden[0] -> ... -> classes, loss of `Classifier`.

    Source: the paper's appendix; released program `FullyConnected`.
    """

    features: int
    classes: int
    hidden: tuple[int, ...]
    activation: str = "sigmoid"
    data: Dataset = dataclasses.field(default=Clusters(), kw_only=True)

    def check_structure(self) -> None:
        self.require_sizes("hidden")

    @property
    def data_sizes(self) -> tuple[int, int]:
        return self.features, self.classes

    @property
    def shapes(self) -> Shapes:
        return affine_shapes((self.features, *self.hidden, self.classes))

    def logits(self, parameters: Parameters, data: Array) -> Array:
        return affine_layers(parameters, data, ACTIVATIONS[self.activation])
