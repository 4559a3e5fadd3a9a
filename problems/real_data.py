"""Small real data sets: pictures, tables and texts, read from `problems/data/small_real.npz`.

data/README.md there says where they come from. An instance has its own draw of a source, of
classes, columns or pages, and of how they are shown, so that few files make many tasks.
"""

import abc
import dataclasses
import functools
import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from problems.datasets import Data, Dataset
from problems.problem import Array, Parameters, number, split_like
from problems.registry import register

FILE = pathlib.Path(__file__).parent / "data" / "small_real.npz"
# Bytes of all arrays: four times what they have.
_LARGEST = 4 * 2**20
# Of letters as they are stored.
BRIGHTEST_LETTER = 15


@functools.cache
def arrays() -> dict[str, np.ndarray]:
    """The file's arrays by name.

    Raises:
      ValueError: the file is missing or damaged.
    """
    # Keras is behind this import; only who draws an instance has need of it.
    from hrnn_opt.files.atomic import read_npz

    try:
        return read_npz(FILE, _LARGEST)
    except ValueError as error:
        raise ValueError(
            f"small_real: {FILE} cannot be read ({error}). It is a part of the repository; "
            "problems/data/README.md says how it is made."
        ) from None


@dataclasses.dataclass(frozen=True, repr=False)
class Real(Dataset):
    """Samples of a real data set, and the two ways in which an instance may be out of the usual.

    Args:
      few_decades: of its samples only the part 10^U(-d, 0) are different ones, which a network
        may learn by heart.
      noise: the instance's level of what `disturb` does is U(1/2, 1) times this.
    """

    few_decades: float = number(0.0, kw_only=True)
    noise: float = number(0.0, kw_only=True)

    def check(self) -> None:
        super().check()
        self.require(self.few_decades >= 0, "few_decades", "at least 0")
        self.require(self.noise >= 0, "noise", "at least 0")

    @abc.abstractmethod
    def draw_clean(
        self, key: Array, numbers: dict[str, Any], samples: int, features: int, classes: int
    ) -> Data:
        """Draws inputs and labels, all different and free of noise."""

    def disturb(
        self, chances: Array, level: Array, data: Array, labels: Array, classes: int
    ) -> Data:
        """Replaces labels by classes drawn uniformly, with the probability `level`.

        Args:
          chances: two U(0, 1) for each sample's `disturbed` values, (2, samples, disturbed).
        """
        flip, other = chances.reshape(2, *labels.shape)
        return data, jnp.where(flip < level, _below(other, classes), labels)

    def disturbed(self, features: int) -> int:
        """How many values of a sample `disturb` looks at."""
        return 1

    def draw(
        self, key: Array, numbers: dict[str, Any], samples: int, features: int, classes: int
    ) -> Data:
        clean_key, own_key = jax.random.split(key)
        data, labels = self.draw_clean(clean_key, numbers, samples, features, classes)
        level, part, chances = _uniforms(
            own_key, (), (), (2, samples, self.disturbed(features)))
        level = numbers["noise"] * (1 + level) / 2
        data, labels = self.disturb(chances, level, data, labels, classes)
        different = samples * 10.0 ** (-numbers["few_decades"] * part)
        chosen = jnp.arange(samples) % jnp.ceil(different).astype(jnp.int32)
        return data[chosen], labels[chosen]


def _uniforms(key: Array, *shapes: tuple[int, ...]) -> Parameters:
    """U(0, 1) of these shapes, cut from one draw: each generator takes long to compile."""
    pieces = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return split_like(jax.random.uniform(key, (sum(p.size for p in pieces),)), pieces)


def _below(chance: Array, count: Array | int) -> Array:
    """An integer in 0 .. count - 1 from U(0, 1)."""
    return jnp.minimum((chance * count).astype(jnp.int32), count - 1)


def _decades(chance: Array, decades: Array) -> Array:
    """10^U(-decades, decades) from U(0, 1)."""
    return 10.0 ** (decades * (2 * chance - 1))


def _choose(chances: Array, available: Array, count: int) -> Array:
    """`count` different places where `available` holds, in random order; then the others."""
    return jnp.argsort(chances + ~available)[:count]


# Pictures.

# Pixels of a cell and of the picture in its middle: what a rotated picture may look at.
_CELL, _SEEN = 12, 8


class _Bank(NamedTuple):
    """Square cells of `_CELL` pixels each way in one long row of pixels.

    Pixel (y, x) of cell i of class c is pixels[place[i] + y * stride[c] + x]; the cells of a class
    and the classes of a source lie together.
    """

    pixels: np.ndarray
    place: np.ndarray
    stride: np.ndarray
    first_cell: np.ndarray
    cells: np.ndarray
    first_class: np.ndarray
    classes: np.ndarray


def _bank(*sources: list[np.ndarray]) -> _Bank:
    """A source is a list of classes; a class is tiles (n, 12, 12) or one photograph (h, w)."""
    pixels, places, strides, counts, at = [], [], [], [], 0
    for source in sources:
        for picture in source:
            if picture.ndim == 3:
                place = np.arange(len(picture)) * _CELL**2
                strides.append(_CELL)
            else:
                height, width = (size - _CELL + 1 for size in picture.shape)
                place = (np.arange(height)[:, None] * picture.shape[1] + np.arange(width)).ravel()
                strides.append(picture.shape[1])
            places.append(at + place)
            counts.append(len(place))
            pixels.append(picture.ravel())
            at += picture.size
    classes = np.array([len(source) for source in sources])
    integers = (
        np.concatenate(places), strides, np.cumsum(counts) - counts, counts,
        np.cumsum(classes) - classes, classes)
    return _Bank(np.concatenate(pixels), *(np.asarray(values, np.int32) for values in integers))


def _shade(values: np.ndarray, brightest: int) -> np.ndarray:
    return np.round(values * (240 / brightest)).astype(np.uint8)


@functools.cache
def _pictures() -> _Bank:
    stored = arrays()
    margin = (_CELL - _SEEN) // 2
    digits = np.pad(_shade(stored["digits"], 16), ((0, 0), (margin, margin), (margin, margin)))
    return _bank(
        [digits[stored["digit_labels"] == digit] for digit in range(10)],
        list(_shade(stored["letters"], BRIGHTEST_LETTER)),
        list(_shade(stored["photographs"], 63)),
    )


@functools.cache
def _held_out_pictures() -> _Bank:
    stored = arrays()
    return _bank(
        [],
        list(_shade(stored["held_out_letters"], BRIGHTEST_LETTER)),
        list(_shade(stored["held_out_photographs"], 63)),
    )


@register
@dataclasses.dataclass(frozen=True, repr=False)
class Pictures(Real):
    """Square grey pictures from one of three sources: handwritten digits, letters in many fonts,
    pieces of photographs (which one is the class); an instance has classes of its own.

    A picture is seen under an affine map of its own: rotated by U(-0.3, 0.3) radians, enlarged by
    U(0.8, 1.2), sheared by U(-0.2, 0.2) and moved by up to a pixel, all times the instance's
    U(0, 1) spread. The instance's U(0, 1) times the mean of all pixels is taken away.

    Args:
      digits: how often an instance is of digits, as against the other two.
      letters: how often it is of letters.
      photographs: how often it is of photographs.
      spread: how far the maps are from leaving the picture as it is, at most.
      projected: probability that an instance's pixels are mixed by a random matrix.
      scale_decades: the instance's inputs are multiplied by 10^U(-d, d).
    """

    digits: float = number(1.0, kw_only=True)
    letters: float = number(1.0, kw_only=True)
    photographs: float = number(1.0, kw_only=True)
    spread: float = number(1.0, kw_only=True)
    projected: float = number(0.0, kw_only=True)
    scale_decades: float = number(0.5, kw_only=True)

    source_classes = 10, 52, 10

    def check(self) -> None:
        super().check()
        for name in ("digits", "letters", "photographs", "spread", "scale_decades"):
            self.require(getattr(self, name) >= 0, name, "at least 0")
        self.require(0 <= self.projected <= 1, "projected", "a probability from 0 to 1")
        self.require(any(self._shares), "digits", "positive, or letters or photographs")

    @property
    def _shares(self) -> tuple[float, float, float]:
        return self.digits, self.letters, self.photographs

    def check_sizes(self, samples: int, features: int, classes: int) -> None:
        name = type(self).__name__
        if math.isqrt(features) ** 2 != features:
            raise ValueError(f"{name}: features must be a square number; got {features}.")
        most = min(n for n, share in zip(self.source_classes, self._shares) if share)
        if not 1 <= classes <= most:
            raise ValueError(f"{name}: classes must be 1 to {most}; got {classes}.")

    def bank(self) -> _Bank:
        return _pictures()

    def draw_clean(
        self, key: Array, numbers: dict[str, Any], samples: int, features: int, classes: int
    ) -> Data:
        bank = _Bank(*(jnp.asarray(field) for field in self.bank()))
        most = max(self.source_classes)
        own_key, sample_key, mixing_key = jax.random.split(key, 3)
        own = _uniforms(own_key, (3,), (most,), (), (), (), ())
        source_chance, class_chance, spread, dark, mixed, scale = own
        each = _uniforms(sample_key, *[(samples,)] * 2, *[(samples, 1)] * 5)
        label_chance, cell_chance, *map_chances = each

        # The first of arrivals at these rates: each source as often as its share.
        shares = jnp.stack([numbers[name] for name in ("digits", "letters", "photographs")])
        source = jnp.argmin((1e-9 - jnp.log1p(-source_chance)) / shares)
        available = jnp.arange(most) < bank.classes[source]
        chosen = bank.first_class[source] + _choose(class_chance, available, classes)
        labels = _below(label_chance, classes)
        kind = chosen[labels]
        cell = _below(cell_chance, bank.cells[kind])
        place = bank.place[bank.first_cell[kind] + cell]

        bounds = 0.3, 0.2, 0.2, 1.0, 1.0
        angle, growth, shear, right_shift, down_shift = (
            numbers["spread"] * spread * bound * (2 * chance - 1)
            for bound, chance in zip(bounds, map_chances, strict=True))
        # From the grid asked for, centred, to places in the cell.
        side = math.isqrt(features)
        grid = (jnp.arange(side) + 0.5) * _SEEN / side - _SEEN / 2
        y, x = (axis.ravel() for axis in jnp.meshgrid(grid, grid, indexing="ij"))
        u = (jnp.cos(angle) * x - jnp.sin(angle) * y + shear * y) / (1 + growth) + right_shift
        v = (jnp.sin(angle) * x + jnp.cos(angle) * y) / (1 + growth) + down_shift
        last = _CELL - 1
        u, v = jnp.clip(u + last / 2, 0, last), jnp.clip(v + last / 2, 0, last)
        left = jnp.minimum(u.astype(jnp.int32), last - 1)
        top = jnp.minimum(v.astype(jnp.int32), last - 1)
        right, below = u - left, v - top

        stride = bank.stride[kind][:, None]
        corner = place[:, None] + top * stride + left

        def row(corner: Array) -> Array:
            here, there = (bank.pixels[corner + i].astype(jnp.float32) for i in (0, 1))
            return here * (1 - right) + there * right

        data = (row(corner) * (1 - below) + row(corner + stride) * below) / 240
        data = data - dark * data.mean()
        mixing = jax.random.normal(mixing_key, (features, features)) / features**0.5
        data = jnp.where(mixed < numbers["projected"], data @ mixing, data)
        return data * _decades(scale, numbers["scale_decades"]), labels


@register
@dataclasses.dataclass(frozen=True, repr=False)
class HeldOutPictures(Pictures):
    """As `Pictures`, of Greek letters and of other photographs. For judging, not for learning."""

    digits: float = number(0.0, kw_only=True)

    source_classes = 0, 29, 6

    def check(self) -> None:
        super().check()
        self.require(self.digits == 0, "digits", "0: no digits are held out")

    def bank(self) -> _Bank:
        return _held_out_pictures()


# Tables.

_LEVELS = 10


class _Tables(NamedTuple):
    """All tables, padded to the longest and the widest.

    Attributes:
      values: (tables, rows, columns), standardised; 0 where there is none.
      levels: (tables, rows, columns) each value's place among few: of the column's values in
        order, or the tenth of them that it lies in.
      level_count: (tables, columns).
      rows: (tables,) of each.
      columns: (tables, columns) which there are.
      targets: (tables, columns) which say something: no value has more than four fifths.
      unordered: (tables,) whether the first column's values have no order.
    """

    values: np.ndarray
    levels: np.ndarray
    level_count: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    targets: np.ndarray
    unordered: np.ndarray


def _levels(column: np.ndarray) -> tuple[np.ndarray, int]:
    distinct, places, counts = np.unique(column, return_inverse=True, return_counts=True)
    if len(distinct) <= _LEVELS:
        return places, len(distinct)
    # By the middle of a value's ranks, so that equal values are of one tenth.
    ranks = (np.cumsum(counts) - counts / 2) / len(column)
    return np.minimum(ranks * _LEVELS, _LEVELS - 1).astype(int)[places], _LEVELS


def _stack(prefix: str) -> _Tables:
    tables = {name: table.astype(np.float32) for name, table in arrays().items()
              if name.startswith(prefix)}
    shape = len(tables), *np.max([table.shape for table in tables.values()], axis=0)
    values, levels = np.zeros(shape, np.float32), np.zeros(shape, np.int32)
    level_count = np.ones((shape[0], shape[2]), np.int32)
    columns, targets = (np.zeros((shape[0], shape[2]), bool) for _ in range(2))
    for i, table in enumerate(tables.values()):
        rows, width = table.shape
        values[i, :rows, :width] = table
        columns[i, :width] = True
        for j in range(width):
            levels[i, :rows, j], level_count[i, j] = _levels(table[:, j])
            targets[i, j] = np.bincount(levels[i, :rows, j]).max() < 0.8 * rows
    return _Tables(
        values, levels, level_count, np.array([len(table) for table in tables.values()]), columns,
        targets, np.array([name.endswith("_classes") for name in tables]))


@functools.cache
def _tables() -> _Tables:
    return _stack("table_")


@functools.cache
def _held_out_tables() -> _Tables:
    return _stack("held_out_table_")


@register
@dataclasses.dataclass(frozen=True, repr=False)
class Tables(Real):
    """Rows of one of some tables; one column is foretold from others.

    It is the table's own target half of the time, and any of its columns else. Its values are
    dealt out to the classes: in order, or at random where they have no order. The inputs are
    others of its columns, mixtures of them all where there are not enough, or only mixtures.

    Args:
      mixed: probability that all of an instance's inputs are mixtures.
      scale_decades: the instance's inputs are multiplied by 10^U(-d, d).
    """

    mixed: float = number(0.3, kw_only=True)
    scale_decades: float = number(0.25, kw_only=True)

    def check(self) -> None:
        super().check()
        self.require(0 <= self.mixed <= 1, "mixed", "a probability from 0 to 1")
        self.require(self.scale_decades >= 0, "scale_decades", "at least 0")

    def check_sizes(self, samples: int, features: int, classes: int) -> None:
        if classes > _LEVELS:
            raise ValueError(
                f"{type(self).__name__}: classes must be at most {_LEVELS}; got {classes}.")

    def tables(self) -> _Tables:
        return _tables()

    def draw_clean(
        self, key: Array, numbers: dict[str, Any], samples: int, features: int, classes: int
    ) -> Data:
        stored = self.tables()
        own_key, mixing_key = jax.random.split(key)
        width = stored.columns.shape[1]
        chances = _uniforms(
            own_key, (), (width,), (), (samples,), (width,), (), (), (_LEVELS,))
        table, any_target, own, row, order, mixed, scale, dealt = chances
        table = _below(table, len(stored.rows))
        tables = _Tables(*(jnp.asarray(field)[table] for field in stored))
        target = jnp.argmin(any_target + ~tables.targets)
        target = jnp.where((own < 0.5) & tables.targets[0], 0, target)
        row = _below(row, tables.rows)

        others = tables.columns & (jnp.arange(width) != target)
        count = others.sum()
        places = jnp.arange(features)
        # Where it asks for more columns than the widest table has, these are mixtures.
        order = jnp.pad(_choose(order, others, features), (0, max(features - width, 0)))
        chosen = jax.nn.one_hot(order, width, axis=0)
        mixtures = jax.random.normal(mixing_key, (width, features))
        mixtures *= others[:, None] / count**0.5
        mixed = (mixed < numbers["mixed"]) | (places >= count)
        data = tables.values[row] @ jnp.where(mixed, mixtures, chosen)
        data = data * _decades(scale, numbers["scale_decades"])
        return data, self.labels(dealt, tables, row, target, classes)

    def labels(
        self, chances: Array, tables: _Tables, row: Array, target: Array, classes: int
    ) -> Array:
        """The classes of the rows."""
        count = tables.level_count[target]
        at_random = _choose(chances, jnp.arange(_LEVELS) < count, _LEVELS) % classes
        in_order = jnp.arange(_LEVELS) * classes // jnp.maximum(count, classes)
        dealt = jnp.where(tables.unordered & (target == 0), at_random, in_order)
        return dealt[tables.levels[row, target]]


@register
@dataclasses.dataclass(frozen=True, repr=False)
class TableValues(Tables):
    """As `Tables`, with the column's values, of mean 0 and deviation 1, in place of classes."""

    def labels(
        self, chances: Array, tables: _Tables, row: Array, target: Array, classes: int
    ) -> Array:
        return tables.values[row, target]

    def disturb(
        self, chances: Array, level: Array, data: Array, labels: Array, classes: int
    ) -> Data:
        """Adds N(0, level^2) to the values."""
        radius, angle = chances.reshape(2, *labels.shape)
        normal = jnp.sqrt(-2 * jnp.log1p(-radius)) * jnp.cos(2 * jnp.pi * angle)
        return data, labels + level * normal


@register
@dataclasses.dataclass(frozen=True, repr=False)
class HeldOutTables(Tables):
    """As `Tables`, of another table. For judging, not for learning."""

    def tables(self) -> _Tables:
        return _held_out_tables()


# Texts.


@functools.cache
def _texts(prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """(texts, symbols), the shorter ones padded, and their lengths."""
    texts = [text for name, text in arrays().items() if name.startswith(prefix)]
    lengths = np.array([len(text) for text in texts])
    return np.stack([np.pad(text, (0, max(lengths) - len(text))) for text in texts]), lengths


@register
@dataclasses.dataclass(frozen=True, repr=False)
class Text(Real):
    """Pieces of English, no labels: inputs (samples, features + 1) int32, as `MarkovText`'s.

    An instance's pieces are from one part of one book, of 1/100 of it to all. The alphabet is of
    letters, the space and five marks; with fewer classes the rarest symbols become one. Which
    number a symbol has is random.
    """

    prefix = "text_"

    def check_sizes(self, samples: int, features: int, classes: int) -> None:
        if not 2 <= classes <= 32:
            raise ValueError(f"{type(self).__name__}: classes must be 2 to 32; got {classes}.")

    def draw_clean(
        self, key: Array, numbers: dict[str, Any], samples: int, features: int, classes: int
    ) -> Data:
        texts, lengths = _texts(self.prefix)
        book, part, first, start, name = _uniforms(key, (), (), (), (samples,), (classes,))
        book = _below(book, len(texts))
        length = jnp.asarray(lengths)[book] - features
        part = (length * 10.0 ** (-2 * part)).astype(jnp.int32)
        start = _below(first, length - part + 1) + _below(start, part)
        symbols = jnp.asarray(texts)[book, start[:, None] + jnp.arange(features + 1)]
        names = jnp.argsort(name)
        data = names[jnp.minimum(symbols, classes - 1)]
        return data.astype(jnp.int32), jnp.zeros(samples, jnp.int32)

    def disturbed(self, features: int) -> int:
        return features + 1

    def disturb(
        self, chances: Array, level: Array, data: Array, labels: Array, classes: int
    ) -> Data:
        """Replaces symbols by others drawn uniformly, with the probability `level`."""
        return super().disturb(chances, level, labels, data, classes)[::-1]


@register
@dataclasses.dataclass(frozen=True, repr=False)
class HeldOutText(Text):
    """As `Text`, of another book. For judging, not for learning."""

    prefix = "held_out_text_"
