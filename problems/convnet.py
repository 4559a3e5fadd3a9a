"""Small convolutional networks."""

import dataclasses

import jax

from problems.datasets import Dataset, Digits
from problems.networks import ACTIVATIONS, Classifier, Shapes
from problems.problem import Array, Parameters, is_whole, number
from problems.registry import register


@register
@dataclasses.dataclass(frozen=True, repr=False)
class ConvNet(Classifier):
    """Convolutions without biases, each followed by the activation, then one affine layer.

    SAME padding, stride 1, no pooling; start N(0, 0.01^2). The loss is the cross entropy of the
    softmax over all classes, `l2` being 0 unless given.

    Args:
      image: (height, width, channels).
      classes: number of classes.
      filters: a (height, width, count) for each convolution.
      activation: a name of `networks.ACTIVATIONS`.

    Source: the paper's appendix; released program `ConvNet`.
    """

    image: tuple[int, int, int]
    classes: int
    filters: tuple[tuple[int, int, int], ...]
    activation: str = "relu"
    data: Dataset = dataclasses.field(default=Digits(), kw_only=True)
    init: str = dataclasses.field(default="small", kw_only=True)
    l2: float = number(0.0, kw_only=True)

    first_logit_only = False

    def check_structure(self) -> None:
        self.require_sizes("image")
        self.require(len(self.image) == 3, "image", "a tuple (height, width, channels)")
        self.require(
            isinstance(self.filters, tuple)
            and len(self.filters) > 0
            and all(
                isinstance(f, tuple) and len(f) == 3 and all(is_whole(s) and s >= 1 for s in f)
                for f in self.filters
            ),
            "filters",
            "a tuple of (height, width, count) of integers of at least 1",
        )

    @property
    def data_sizes(self) -> tuple[int, int]:
        height, width, channels = self.image
        return height * width * channels, self.classes

    @property
    def shapes(self) -> Shapes:
        height, width, channels = self.image
        shapes: list[tuple[int, ...]] = []
        for kh, kw, count in self.filters:
            shapes.append((kh, kw, channels, count))
            channels = count
        return (*shapes, (height * width * channels, self.classes), (self.classes,))

    def logits(self, parameters: Parameters, data: Array) -> Array:
        *banks, weights, bias = parameters
        hidden = data.reshape(-1, *self.image)
        for bank in banks:
            hidden = jax.lax.conv_general_dilated(
                hidden, bank, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            hidden = ACTIVATIONS[self.activation](hidden)
        return hidden.reshape(len(data), -1) @ weights + bias
