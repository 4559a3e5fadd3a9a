"""Steps by the width of layers: the maximal-update parametrization on the side of the optimizer.

Therien et al., "muLO: Compute-Efficient Meta-Generalization of Learned Optimizers", 2024
(https://arxiv.org/abs/2406.00153), after Yang et al. 2021, "Tensor Programs V". A step that does
not shrink with the gradient moves the sum in a unit by more, the more inputs there are to it;
divided by their number, layers of any width learn at one rate.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from keras import ops

from hrnn_opt.checks import Config, check, is_number
from hrnn_opt.places.layout import Layout
from hrnn_opt.registry import register
from hrnn_opt.rules.chain import Rule

# Larger gradients are as good as infinite ones, whose squares leave 32 bits.
_LARGEST_GRADIENT = 1e18
_MOST_MULTIPLIERS = 100_000


@dataclasses.dataclass(frozen=True)
class MuConfig(Config):
    """Switches of the rule.

    Args:
        base_fan_in: the number of inputs at which the step of a hidden layer is what it is; a
            positive number. 1 for weights that were meta-trained in this parametrization.
        scale_output: the output layer's steps are divided by its inputs too. False for models that
            divide their logits by them, as the authors' do.
        clip_norm: gradients of all tensors together are scaled to a norm of at most this; 0: not.
        multipliers: of the tensors' steps, in their order, in place of what the rule finds; (): it
            finds them.

    Raises:
        ValueError: naming the argument, what came and what is allowed.
    """

    base_fan_in: float = 1.0
    scale_output: bool = True
    clip_norm: float = 0.0
    multipliers: tuple[float, ...] = ()

    NAME: ClassVar[str] = "mu"

    def __post_init__(self) -> None:
        def is_positive(value: Any) -> bool:
            return is_number(value) and 0 < value < math.inf

        check(self, "base_fan_in", is_positive(self.base_fan_in), "a positive number")
        check(self, "scale_output", isinstance(self.scale_output, bool), "True or False")
        check(self, "clip_norm", is_positive(self.clip_norm) or self.clip_norm == 0,
              "a number of at least 0")
        check(self, "multipliers",
              isinstance(self.multipliers, tuple) and len(self.multipliers) <= _MOST_MULTIPLIERS
              and all(is_number(x) and 0 <= x < math.inf for x in self.multipliers),
              f"at most {_MOST_MULTIPLIERS} numbers of at least 0")


@register
class Mu(Rule):
    """u <- mu u, with mu = base_fan_in / fan_in for a hidden layer's matrix, and 1 for the input
    layer's, embeddings and vectors.

    Which tensor is what follows from its shape, its place among the others and its name:
    `multipliers_of` says how. An entry of the gradient that is not finite counts as 0, as in the
    authors' program; `LearnedOpt` leaves out such a step before it comes here.

    Raises:
        ValueError: if `multipliers` are not as many as there are tensors.
    """

    Config = MuConfig

    def multipliers_of(self, layout: Layout) -> np.ndarray:
        """(K,) mu of each tensor.

        A tensor of two or more axes is the input layer's if it is the first of these, or has
        "embed" in its name; the output layer's if it is the last; else a hidden one. A tensor is a
        vector, whatever its axes, if its name ends in "bias", as those of Keras's attention do.

        Raises:
            ValueError: as the class.
        """
        c = self.config
        if c.multipliers:
            if len(c.multipliers) != layout.tensors:
                raise ValueError(
                    f"`multipliers` must be one for each of the {layout.tensors} tensors, got "
                    f"{len(c.multipliers)}.")
            return np.array(c.multipliers, "float32")
        layers = [k for k, (shape, name) in enumerate(zip(layout.shapes, layout.names))
                  if len(shape) > 1 and "embed" not in name.lower() and not name.endswith("bias")]
        found = np.ones(layout.tensors, "float32")
        # An embedding is an input layer too.
        embedded = any("embed" in name.lower() for name in layout.names)
        for k in layers if embedded else layers[1:]:
            if k != layers[-1] or c.scale_output:
                found[k] = c.base_fan_in / fan_in(layout.shapes[k], layout.names[k])
        return found

    def cleaned(self, layout: Layout, gradient: Any) -> Any:
        """(..., B, L) the gradient that the inner network sees."""
        if self.config.clip_norm:
            # With one entry that is not finite, none of them is: all of them count as 0.
            square = layout.tensor_mean(ops.expand_dims(ops.square(gradient), 0))[0]
            sizes = ops.convert_to_tensor(layout.sizes.astype("float32"))
            norm = ops.sqrt(ops.sum(square * sizes, axis=-1) + 1e-30)[..., None, None]
            gradient = gradient * (
                self.config.clip_norm / ops.maximum(norm, self.config.clip_norm))
        return ops.where(ops.abs(gradient) <= _LARGEST_GRADIENT, gradient, 0.0)

    def around(self, layout, state, seen, inner, active):
        step = inner(seen._replace(gradient=self.cleaned(layout, seen.gradient)))
        mu = ops.convert_to_tensor(self.multipliers_of(layout))
        size = ops.broadcast_to(mu, (*tuple(step.update.shape)[:-2], layout.tensors))
        if step.size is not None:
            size = size * step.size
        return {}, step._replace(size=size)


def fan_in(shape: Sequence[int], name: str = "") -> int:
    """The inputs of a unit of a layer that grow with the width of the network: not the pixels of a
    convolution.

    Args:
        shape: of the kernel, of two or more axes.
        name: of it: Keras's attention has kernels (inputs, heads, size) and, on its way out,
            (heads, size, outputs), and its depthwise convolutions have channels in place of inputs.
    """
    if "depthwise" in name:
        return 1
    if len(shape) == 3 and "attention" in name:
        return shape[0] * shape[1] if "attention_output" in name else shape[0]
    return shape[-2]
