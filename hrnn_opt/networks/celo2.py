"""A small fully connected network for each parameter, whose updates are of one size in each matrix.

Moudgil et al., "Celo2: Towards learned optimization free lunch", 2026
(https://arxiv.org/abs/2602.19142), and the program that its authors released. Dimension letters are
those of `interface.py`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from hrnn_opt.checks import Config, check, is_number
from hrnn_opt.interface import Field, LearnedOptimizer, Seen, State, Step
from hrnn_opt.networks import moments, released
from hrnn_opt.networks.functions import finite_backward
from hrnn_opt.places.layout import Layout
from hrnn_opt.registry import register

LARGEST_GRADIENT = 1000.0
_DECAYS = moments.Decays(
    np.array([0.9, 0.99, 0.999], "float32"), np.float32(0.95),
    np.array([0.9, 0.99, 0.999], "float32"))
# In all means of squares, and Adam's.
_EPSILON = 1e-8
_NORM_EPSILON = 1e-9
# Of Newton and Schulz's iteration for the orthogonal factor (Jordan et al. 2024, "Muon"), which
# brings singular values to between 0.7 and 1.2, and not to 1.
_ORTHOGONAL = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Celo2Config(Config):
    """Switches, by default those that the authors recommend.

    Args:
        units, layers: size and number of the hidden layers, 1 to 1024 and 1 to 8.
        orthogonalize: the network's updates of matrices.
        adam_vectors: whether tensors of fewer than two axes are Adam's.
        adam_names: whatever has one of these in its name is Adam's too.
        adam_multiplier: of the learning rate, for what is Adam's.
        adam_corrected: its means for their start, and the epsilon outside of the root. False: not
            corrected and inside of it, as while the authors meta-trained.
        weight_decay: decoupled, by the parameter before the step. Unlike the argument of Keras's
            optimizers it has `adam_multiplier` too.

    Raises:
        ValueError: naming the argument, what came and what is allowed.
    """

    units: int = 8
    layers: int = 2
    orthogonalize: bool = True
    adam_vectors: bool = True
    adam_names: tuple[str, ...] = ("embed",)
    adam_multiplier: float = 20.0
    adam_corrected: bool = True
    weight_decay: float = 0.0

    NAME: ClassVar[str] = "celo2"

    def __post_init__(self) -> None:
        for name, most in (("units", 1024), ("layers", 8)):
            value = getattr(self, name)
            check(self, name, is_number(value, int) and 1 <= value <= most,
                  f"an integer from 1 to {most}")
        for name in ("orthogonalize", "adam_vectors", "adam_corrected"):
            check(self, name, isinstance(getattr(self, name), bool), "True or False")
        for name in ("adam_multiplier", "weight_decay"):
            value = getattr(self, name)
            check(self, name, is_number(value) and 0 <= value < math.inf, "a number of at least 0")
        names = self.adam_names
        check(self, "adam_names",
              isinstance(names, tuple) and all(isinstance(name, str) and name for name in names),
              "texts that are not empty")


@register
@keras.saving.register_keras_serializable(package="hrnn_opt")
class Celo2(LearnedOptimizer):
    """u = d / RMS(d), with d what a network makes of 30 inputs of the parameter, or the orthogonal
    factor of that; Adam for vectors and embeddings.

    Means are over the last two axes: a convolution's kernel is as many matrices as it has pixels.
    What multiplies the learning rate is thus of size 1, whatever the gradients are.

    Args:
        config: its switches.
        seed: of the kernels' start values, the same on every backend.
    """

    Config = Celo2Config
    needs = frozenset({"parameters"})
    # A step is of one size, whatever the gradient: also where it is 0.
    still = False
    learning_rate = 1e-3

    def __init__(self, config: Celo2Config | None = None, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        rng = np.random.default_rng(seed)
        c = self.config
        sizes = [released.BANK_INPUTS, *[c.units] * c.layers, 3]

        def kernel(shape, dtype=None):
            del dtype
            return moments.truncated_normal(rng, shape, shape[0])

        self.kernels = [
            self.add_weight(name=f"kernel_{i}", shape=sizes[i : i + 2], initializer=kernel)
            for i in range(len(sizes) - 1)]
        self.biases = [
            self.add_weight(name=f"bias_{i}", shape=(size,), initializer="zeros")
            for i, size in enumerate(sizes[1:])]
        self.built = True

    @classmethod
    def from_released(cls, arrays, constants):
        if "ff_mod_stack/~/w0__0" not in arrays or any("rnn_params" in name for name in arrays):
            return None
        found = released.bank(arrays)
        return cls.Config(
            units=found["bias_0"].size, layers=len(found) // 2 - 1, **constants), found

    @property
    def fields(self) -> dict[str, Field]:
        return {**moments.FIELDS, "tensor_steps": Field("tensor", wide=True)}

    def is_adams(self, layout: Layout) -> np.ndarray:
        """(K,) which tensors are Adam's."""
        c = self.config
        return np.array([
            (c.adam_vectors and len(shape) < 2) or any(part in name for part in c.adam_names)
            for shape, name in zip(layout.shapes, layout.names)])

    def inputs(self, layout: Layout, state: State, seen: Seen) -> Any:
        """(30, ..., B, L) what is read of the parameters, of moments after the step."""
        gradient = _clipped(seen.gradient, LARGEST_GRADIENT)
        p = moments.parts(state, moments.spread(layout, state["factored"]), gradient, _EPSILON,
                          _EPSILON)
        # Of a vector there are no rows and columns to read.
        matrices = layout.to_lanes(np.array([len(shape) > 1 for shape in layout.shapes]))
        of_matrices = ops.where(matrices, ops.concatenate([
            p.row, p.column, p.inverse_row, p.inverse_column, p.factored_momenta]), 0.0)
        of_one = [ops.expand_dims(x, 0) for x in (
            gradient, ops.clip(gradient, -0.1, 0.1), seen.parameters)]
        return _unit(layout, ops.concatenate([
            *of_one, p.momenta, p.mean_square, p.scaled_momenta, p.inverse, p.factored_gradient,
            ops.expand_dims(gradient, 0) * p.inverse, of_matrices]))

    def direction(self, inputs: Any) -> Any:
        """(..., B, L) d, the first of the network's three outputs."""
        return moments.layers(self.kernels, self.biases, inputs)[0]

    def orthogonal(self, layout: Layout, direction: Any) -> Any:
        """(..., B, L) the direction with its matrices made orthogonal."""
        tensors = layout.unflatten(direction)
        adams = self.is_adams(layout)
        alike: dict[tuple[int, int], list[int]] = {}
        for k, shape in enumerate(layout.shapes):
            if len(shape) > 1 and not adams[k]:
                alike.setdefault((min(shape[-2:]), max(shape[-2:])), []).append(k)
        for (rows, columns), members in alike.items():
            matrices = []
            for k in members:
                tall = layout.shapes[k][-2] > layout.shapes[k][-1]
                x = ops.swapaxes(tensors[k], -2, -1) if tall else tensors[k]
                models = tuple(x.shape)[: len(x.shape) - len(layout.shapes[k])]
                matrices.append(ops.reshape(x, (*models, -1, rows, columns)))
            found = orthogonal_factor(ops.concatenate(matrices, axis=-3))
            start = 0
            for k, x in zip(members, matrices):
                end = start + x.shape[-3]
                shape = tuple(tensors[k].shape)
                tall = layout.shapes[k][-2] > layout.shapes[k][-1]
                own = (*shape[:-2], rows, columns)
                x = ops.reshape(found[..., start:end, :, :], own)
                tensors[k] = ops.swapaxes(x, -2, -1) if tall else x
                start = end
        return layout.flatten(tensors)

    def learned(self, layout: Layout, state: State, seen: Seen) -> Any:
        """(..., B, L) u, of moments after the step."""
        direction = finite_backward(self.direction(self.inputs(layout, state, seen)))
        if self.config.orthogonalize:
            direction = self.orthogonal(layout, direction)
        return finite_backward(_unit(layout, ops.expand_dims(direction, 0))[0])

    def advance(
        self, layout: Layout, state: State, seen: Seen, active: Any | None
    ) -> tuple[State, Step]:
        c, adams = self.config, self.is_adams(layout)
        of_adam = layout.to_lanes(adams)
        gradient = ops.where(
            of_adam, _clipped(seen.gradient, moments.LARGEST_GRADIENT),
            _clipped(seen.gradient, LARGEST_GRADIENT))
        new = moments.observe(layout, state, gradient, _DECAYS)
        new["tensor_steps"] = state["tensor_steps"] + 1.0
        decay = c.weight_decay * seen.parameters
        update = self._adam(layout, new) if adams.all() else self.learned(layout, new, seen)
        update = update + decay
        if adams.any():
            update = ops.where(
                of_adam, c.adam_multiplier * (self._adam(layout, new) + decay), update)
        return new, Step(update)

    def _adam(self, layout: Layout, state: State) -> Any:
        """(..., B, L) Adam's update, of moments after the step: its means are among them."""
        mean, square = state["momenta"][0], state["mean_square"]
        if not self.config.adam_corrected:
            return mean * ops.rsqrt(square + _EPSILON)
        steps = state["tensor_steps"]
        # 1 before the first step of a tensor, which is not taken.
        of_mean, of_square = (
            layout.to_lanes(1.0 / (1.0 - ops.power(decay, ops.maximum(steps, 1.0))))
            for decay in (_DECAYS.momenta[0], _DECAYS.mean_square))
        # The addend keeps derivatives at 0 in 32 bits.
        return of_mean * mean / (ops.sqrt(of_square * square + 1e-30) + _EPSILON)


def _clipped(gradient: Any, bound: float) -> Any:
    return ops.clip(gradient, -bound, bound)


def _unit(layout: Layout, x: Any) -> Any:
    """(F, ..., B, L) over the root mean squares over the last two axes of each tensor."""
    x = moments.bounded(x, layout.used_lanes)
    square = ops.square(x)
    if all(len(shape) <= 2 for shape in layout.shapes):
        return x * layout.to_lanes(ops.rsqrt(layout.tensor_mean(square) + _NORM_EPSILON))
    means = [
        ops.broadcast_to(ops.mean(tensor, axis=axes, keepdims=True), tensor.shape)
        if axes else tensor
        for tensor, axes in zip(layout.unflatten(square), map(_last_axes, layout.shapes))]
    return x * ops.rsqrt(layout.flatten(means) + _NORM_EPSILON)


def _last_axes(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(range(-min(len(shape), 2), 0))


def orthogonal_factor(x: Any) -> Any:
    """(..., a, b), a at most b, the nearly orthogonal factor of each matrix."""
    first, third, fifth = _ORTHOGONAL
    # The addend keeps the derivative at 0 in 32 bits.
    norm = ops.sqrt(ops.sum(ops.square(x), axis=(-2, -1), keepdims=True) + 1e-30)
    x = x / (norm + _EPSILON)
    for _ in range(_ROUNDS):
        square = ops.matmul(x, ops.swapaxes(x, -2, -1))
        x = first * x + ops.matmul(third * square + fifth * ops.matmul(square, square), x)
    return x
