"""Generated data sets. Each is a spec of its own that draws inputs and labels from a key.

Sizes are the problem's: a data set only says how its numbers come about.
"""

import abc
import dataclasses
import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from problems.problem import Array, Parameters, Spec, normal_like, number
from problems.registry import register

Data = tuple[Array, Array]


@dataclasses.dataclass(frozen=True, repr=False)
class Dataset(Spec, abc.ABC):
    """Draws (inputs (samples, features) float32, labels (samples,) int32)."""

    @abc.abstractmethod
    def draw(
        self, key: Array, numbers: dict[str, Any], samples: int, features: int, classes: int
    ) -> Data:
        """Draws a data set; `numbers` are this spec's numeric fields as arrays."""

    def check_sizes(self, samples: int, features: int, classes: int) -> None:
        """Raises ValueError when no data set of these sizes exists."""


@dataclasses.dataclass(frozen=True, repr=False)
class Labelled(Dataset):
    """Inputs with class labels, and the two ways in which an instance makes them harder.

    Args:
      label_noise: probability that a label is replaced by a class drawn uniformly.
      scale_decades: the instance's inputs are multiplied by 10^U(-d, d).
    """

    label_noise: float = number(0.0, kw_only=True)
    scale_decades: float = number(0.0, kw_only=True)

    def check(self) -> None:
        super().check()
        self.require(0 <= self.label_noise <= 1, "label_noise", "a probability from 0 to 1")
        self.require(self.scale_decades >= 0, "scale_decades", "at least 0")

    @abc.abstractmethod
    def draw_clean(
        self, key: Array, numbers: dict[str, Any], samples: int, features: int, classes: int
    ) -> Data:
        """Draws inputs and labels before the scale and the label noise."""

    def draw(
        self, key: Array, numbers: dict[str, Any], samples: int, features: int, classes: int
    ) -> Data:
        data_key, scale_key, flip_key, label_key = jax.random.split(key, 4)
        data, labels = self.draw_clean(data_key, numbers, samples, features, classes)
        data = data * log_uniform(scale_key, numbers["scale_decades"])
        flipped = jax.random.bernoulli(flip_key, numbers["label_noise"], (samples,))
        noise = jax.random.randint(label_key, (samples,), 0, classes)
        return data, jnp.where(flipped, noise, labels)


def log_uniform(key: Array, decades: Array, shape: tuple[int, ...] = ()) -> Array:
    """10^U(-decades, decades)."""
    return 10.0 ** (decades * jax.random.uniform(key, shape, minval=-1.0, maxval=1.0))


def random_layers(key: Array, sizes: tuple[int, ...]) -> Parameters:
    """Standard normal weights (fan in, fan out) between layers of consecutive sizes."""
    shapes = itertools.pairwise(sizes)
    return normal_like(key, [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes])


@register
@dataclasses.dataclass(frozen=True, repr=False)
class Clusters(Labelled):
    """Gaussian clusters, two to a class, on vertices of a hypercube ("random" data).

    Cluster c sits at sep * v_c, v_c in {-1, 1}^features distinct, and has the covariance A_c^T A_c
    with A_c ~ U(-1, 1) of shape (features, features). The clusters have equal sizes, and 1 % of
    the labels are noise.

    Source: the distribution of scikit-learn's `make_classification` with all features informative.
    """

    sep: float = number(1.0)
    label_noise: float = number(0.01, kw_only=True)

    clusters_per_class = 2
    # Enough vertices for any class count here, few enough to permute for each instance.
    distinct_dimensions = 12

    def check_sizes(self, samples: int, features: int, classes: int) -> None:
        clusters = self.clusters_per_class * classes
        most = 2 ** min(features, self.distinct_dimensions)
        if clusters > most:
            raise ValueError(
                f"Clusters: {classes} classes need {clusters} distinct vertices, but {features} "
                f"features have {most}; use at most {most // 2} classes or more features."
            )

    def draw_clean(
        self, key: Array, numbers: dict[str, Any], samples: int, features: int, classes: int
    ) -> Data:
        vertex_key, side_key, point_key, spread_key = jax.random.split(key, 4)
        clusters = self.clusters_per_class * classes
        each = -(-samples // clusters)
        low = min(features, self.distinct_dimensions)
        vertex = jax.random.permutation(vertex_key, 2**low)[:clusters]
        bits = (vertex[:, None] >> jnp.arange(low)) & 1
        rest = jax.random.bernoulli(side_key, 0.5, (clusters, features - low))
        sides = 2.0 * jnp.concatenate([bits, rest.astype(bits.dtype)], axis=1) - 1
        points = jax.random.normal(point_key, (clusters, each, features))
        spread = jax.random.uniform(spread_key, (clusters, features, features), minval=-1.0)
        data = jnp.einsum("cnf,cfg->ncg", points, spread) + numbers["sep"] * sides
        labels = jnp.tile(jnp.arange(clusters) % classes, each)
        return data.reshape(-1, features)[:samples], labels[:samples]


@register
@dataclasses.dataclass(frozen=True, repr=False)
class RandomMLP(Labelled):
    """Normal inputs, labelled by the sign of a random ReLU network's output ("random_mlp" data).

    Six layers of width 20, weights N(0, 2 / fan-in), no biases; the label is 1 where the first
    unit of the last layer is positive. An instance may be one-sided, as the released program's is.

    Source: released program `datasets.random_mlp`.
    """

    depth: int = 6
    width: int = 20

    def check(self) -> None:
        super().check()
        self.require_count("depth")
        self.require_count("width")

    def check_sizes(self, samples: int, features: int, classes: int) -> None:
        if classes != 2:
            raise ValueError(f"RandomMLP: classes must be 2; got {classes}.")

    def draw_clean(
        self, key: Array, numbers: dict[str, Any], samples: int, features: int, classes: int
    ) -> Data:
        data_key, weight_key = jax.random.split(key)
        data = hidden = jax.random.normal(data_key, (samples, features))
        for weights in random_layers(weight_key, (features, *(self.width,) * self.depth)):
            hidden = jax.nn.relu(hidden @ weights * (2 / len(weights)) ** 0.5)
        return data, (hidden[:, 0] > 0).astype(jnp.int32)


@register
@dataclasses.dataclass(frozen=True, repr=False)
class Teacher(Labelled):
    """Normal inputs, labelled by a random tanh network with balanced classes.

    The label is the largest of `classes` outputs, each standardised over the samples.
    """

    depth: int = 2
    width: int = 32

    def check(self) -> None:
        super().check()
        self.require_count("depth")
        self.require_count("width")

    def draw_clean(
        self, key: Array, numbers: dict[str, Any], samples: int, features: int, classes: int
    ) -> Data:
        data_key, weight_key = jax.random.split(key)
        data = hidden = jax.random.normal(data_key, (samples, features))
        sizes = (features, *(self.width,) * self.depth, classes)
        *layers, readout = random_layers(weight_key, sizes)
        for weights in layers:
            hidden = jnp.tanh(hidden @ weights * (3 / len(weights)) ** 0.5)
        outputs = hidden @ readout
        outputs = (outputs - outputs.mean(axis=0)) / (outputs.std(axis=0) + 1e-6)
        return data, jnp.argmax(outputs, axis=1).astype(jnp.int32)


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.data / 16).astype(np.float32), digits.target.astype(np.int32)


@register
@dataclasses.dataclass(frozen=True, repr=False)
class Digits(Labelled):
    """A random subset of scikit-learn's 1797 handwritten digits, 8 x 8 pixels in [0, 1].

    With fewer than ten classes, the digits are dealt out to the classes at random.
    """

    def check_sizes(self, samples: int, features: int, classes: int) -> None:
        for name, value, allowed in (
            ("samples", samples, range(1, 1798)),
            ("features", features, [64]),
            ("classes", classes, range(1, 11)),
        ):
            if value not in allowed:
                bounds = sorted({allowed[0], allowed[-1]})
                raise ValueError(
                    f"Digits: {name} must be {' to '.join(map(str, bounds))}; got {value}."
                )

    def draw_clean(
        self, key: Array, numbers: dict[str, Any], samples: int, features: int, classes: int
    ) -> Data:
        chosen_key, class_key = jax.random.split(key)
        images, targets = _digits()
        chosen = jax.random.permutation(chosen_key, len(images))[:samples]
        order = jnp.arange(10)
        if classes < 10:
            order = jax.random.permutation(class_key, order) % classes
        return jnp.asarray(images)[chosen], order[jnp.asarray(targets)[chosen]]


@register
@dataclasses.dataclass(frozen=True, repr=False)
class Glyphs(Labelled):
    """scikit-learn's digits, each under an affine map of its own and on another square grid: as
    many different pictures as one wants, with pixels in [0, 1].

    A sample is a random digit, rotated by U(-0.3, 0.3) radians, enlarged by U(0.8, 1.2), sheared
    by U(-0.2, 0.2), moved by up to one of its 8 x 8 pixels each way, and interpolated linearly.

    Args:
      spread: multiplies how far these maps are from leaving the digit as it is.
    """

    spread: float = number(1.0)

    def check_sizes(self, samples: int, features: int, classes: int) -> None:
        if math.isqrt(features) ** 2 != features:
            raise ValueError(f"Glyphs: features must be a square number; got {features}.")
        if not 1 <= classes <= 10:
            raise ValueError(f"Glyphs: classes must be 1 to 10; got {classes}.")

    def draw_clean(
        self, key: Array, numbers: dict[str, Any], samples: int, features: int, classes: int
    ) -> Data:
        images, targets = _digits()
        keys = jax.random.split(key, 6)
        chosen = jax.random.randint(keys[0], (samples,), 0, len(images))

        def uniform(key: Array, low: float, high: float, *shape: int) -> Array:
            return jax.random.uniform(key, (samples, *shape), minval=low, maxval=high)

        spread = numbers["spread"]
        angle, size = spread * uniform(keys[1], -0.3, 0.3), 1 + spread * uniform(keys[2], -0.2, 0.2)
        shear, shift = spread * uniform(keys[3], -0.2, 0.2), spread * uniform(keys[4], -1, 1, 2)
        # From the fine grid, centred, to places in the 8 x 8 pixels.
        side = math.isqrt(features)
        grid = (jnp.arange(side) + 0.5) * 8 / side - 4
        y, x = jnp.meshgrid(grid, grid, indexing="ij")

        def read(image: Array, angle: Array, size: Array, shear: Array, shift: Array) -> Array:
            u = (jnp.cos(angle) * x - jnp.sin(angle) * y + shear * y) / size + shift[0]
            v = (jnp.sin(angle) * x + jnp.cos(angle) * y) / size + shift[1]
            return jax.scipy.ndimage.map_coordinates(
                image.reshape(8, 8), [v + 3.5, u + 3.5], order=1, mode="constant")

        pictures = jax.vmap(read)(jnp.asarray(images)[chosen], angle, size, shear, shift)
        order = jnp.arange(10)
        if classes < 10:
            order = jax.random.permutation(keys[5], order) % classes
        return pictures.reshape(samples, features), order[jnp.asarray(targets)[chosen]]


@register
@dataclasses.dataclass(frozen=True, repr=False)
class Pixels(Labelled):
    """Another data set seen as pictures are: not negative, mostly 0, and never on in some places.

    Feature f becomes max(x_f / std(x) - t_f, 0) with t_f ~ U(-1, 3), so that features range from
    always on to never on. Weights behind the latter get a gradient of exactly 0.

    Args:
        inner: the data set.
    """

    inner: Labelled

    def check(self) -> None:
        super().check()
        self.require(isinstance(self.inner, Labelled), "inner", "a labelled data set")

    def check_sizes(self, samples: int, features: int, classes: int) -> None:
        self.inner.check_sizes(samples, features, classes)

    def draw_clean(
        self, key: Array, numbers: dict[str, Any], samples: int, features: int, classes: int
    ) -> Data:
        inner_key, threshold_key = jax.random.split(key)
        data, labels = self.inner.draw_clean(
            inner_key, numbers["inner"], samples, features, classes)
        threshold = jax.random.uniform(threshold_key, (features,), minval=-1.0, maxval=3.0)
        return jax.nn.relu(data / (jnp.std(data) + 1e-6) - threshold), labels


@register
@dataclasses.dataclass(frozen=True, repr=False)
class NoisyParity(Dataset):
    """Rows of ids, labelled by the parity of their sum, flipped with probability `flip`.

    Inputs (samples, features) are ids in 0 .. classes - 1, the label is the sum of a sample's ids,
    plus 1 where flipped, modulo classes.

    Source: released program `datasets.noisy_parity_class`.
    """

    flip: float = number(0.25)

    def check(self) -> None:
        super().check()
        self.require(0 <= self.flip <= 1, "flip", "a probability from 0 to 1")

    def draw(
        self, key: Array, numbers: dict[str, Any], samples: int, features: int, classes: int
    ) -> Data:
        id_key, flip_key = jax.random.split(key)
        ids = jax.random.randint(id_key, (samples, features), 0, classes)
        flipped = jax.random.bernoulli(flip_key, numbers["flip"], (samples,))
        return ids.astype(jnp.float32), (ids.sum(axis=1) + flipped) % classes


@register
@dataclasses.dataclass(frozen=True, repr=False)
class BinaryVectors(Dataset):
    """Inputs in {0, 1} with equal probability, no labels (released program `random_binary`)."""

    def draw(
        self, key: Array, numbers: dict[str, Any], samples: int, features: int, classes: int
    ) -> Data:
        data = jax.random.bernoulli(key, 0.5, (samples, features)).astype(jnp.float32)
        return data, jnp.zeros(samples, jnp.int32)


@register
@dataclasses.dataclass(frozen=True, repr=False)
class SymmetricGaussian(Dataset):
    """N(0, 1) vectors followed by their negatives, no labels (released `random_symmetric`)."""

    def check_sizes(self, samples: int, features: int, classes: int) -> None:
        if samples % 2:
            raise ValueError(f"SymmetricGaussian: samples must be even; got {samples}.")

    def draw(
        self, key: Array, numbers: dict[str, Any], samples: int, features: int, classes: int
    ) -> Data:
        half = jax.random.normal(key, (samples // 2, features))
        return jnp.concatenate([half, -half]), jnp.zeros(samples, jnp.int32)


@register
@dataclasses.dataclass(frozen=True, repr=False)
class MarkovText(Dataset):
    """Sequences of a random Markov chain over `classes` symbols, no labels.

    inputs (samples, features + 1) int32: features symbols to read, each followed by the next.
    Row i of the transition matrix is softmax(sharpness * N(0, 1)); the first symbol is uniform.
    """

    sharpness: float = number(2.0)

    def check(self) -> None:
        super().check()
        self.require(self.sharpness >= 0, "sharpness", "at least 0")

    def draw(
        self, key: Array, numbers: dict[str, Any], samples: int, features: int, classes: int
    ) -> Data:
        table_key, first_key, step_key = jax.random.split(key, 3)
        logits = numbers["sharpness"] * jax.random.normal(table_key, (classes, classes))
        first = jax.random.randint(first_key, (samples,), 0, classes)

        def following(symbol, key):
            symbol = jax.random.categorical(key, logits[symbol])
            return symbol, symbol

        _, rest = jax.lax.scan(following, first, jax.random.split(step_key, features))
        return jnp.concatenate([first[None], rest]).T, jnp.zeros(samples, jnp.int32)
