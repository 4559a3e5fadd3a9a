"""A small transformer that classifies pictures by their patches."""

import dataclasses

import jax
import jax.numpy as jnp

from problems.datasets import Dataset
from problems.networks import Classifier, Shapes
from problems.patch_convnet import patches
from problems.perceptrons import WithGains, normalized
from problems.problem import Array, Parameters, number
from problems.real_data import Pictures
from problems.registry import register


@register
@dataclasses.dataclass(frozen=True, repr=False)
class PatchTransformer(WithGains, Classifier):
    """One block of self-attention and one perceptron, layer normalisation before each and at the
    end; the mean over patches is read out.

    Tensors: embedding of patches (patch^2, width), its bias, positions; gain, shift,
    queries/keys/values (width, 3 width), output (width, width); gain, shift, perceptron
    (width, 2 width), (2 width,), (2 width, width), (width,); gain, shift, read-out, its bias.

    Args:
      side: the pictures are side x side, in grey.
      patch: they are cut into patches of patch x patch pixels.
      classes: number of classes.
      width: units of a patch.
      heads: of the attention, a divisor of the width.
    """

    side: int
    patch: int
    classes: int
    width: int
    heads: int = 2
    data: Dataset = dataclasses.field(default=Pictures(), kw_only=True)
    init: str = dataclasses.field(default="glorot", kw_only=True)
    l2: float = number(0.0, kw_only=True)

    first_logit_only = False
    gains = 3, 7, 13

    def check_structure(self) -> None:
        for name in ("side", "patch", "width", "heads"):
            self.require_count(name)
        self.require(self.side % self.patch == 0, "patch", f"a divisor of side={self.side}")
        self.require(self.width % self.heads == 0, "heads", f"a divisor of width={self.width}")

    @property
    def data_sizes(self) -> tuple[int, int]:
        return self.side**2, self.classes

    @property
    def shapes(self) -> Shapes:
        w, count = self.width, (self.side // self.patch) ** 2
        return (
            (self.patch**2, w), (w,), (count, w),
            (w,), (w,), (w, 3 * w), (w, w),
            (w,), (w,), (w, 2 * w), (2 * w,), (2 * w, w), (w,),
            (w,), (w,), (w, self.classes), (self.classes,))

    def logits(self, parameters: Parameters, data: Array) -> Array:
        embedding, bias, positions = parameters[:3]
        *first_norm, qkv, output = parameters[3:7]
        *second_norm, up, up_bias, down, down_bias = parameters[7:13]
        *last_norm, readout, readout_bias = parameters[13:]
        samples, count, w = len(data), (self.side // self.patch) ** 2, self.width
        cut = patches(data.reshape(-1, self.side, self.side, 1), self.patch, self.patch)
        x = cut.reshape(samples, count, -1) @ embedding + bias + positions
        heads = (normalized(x, *first_norm) @ qkv).reshape(
            samples, count, 3, self.heads, w // self.heads)
        query, key, value = (jnp.swapaxes(heads[:, :, i], 1, 2) for i in range(3))
        scores = query @ jnp.swapaxes(key, 2, 3) / (w // self.heads) ** 0.5
        mixed = jax.nn.softmax(scores, axis=-1) @ value
        x = x + jnp.swapaxes(mixed, 1, 2).reshape(samples, count, w) @ output
        hidden = jax.nn.relu(normalized(x, *second_norm) @ up + up_bias)
        x = x + hidden @ down + down_bias
        return normalized(x, *last_norm).mean(axis=1) @ readout + readout_bias
