"""The file of small real data, and what is drawn from it."""

import dataclasses
import functools
import hashlib
import io
import tarfile

import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import numpy as np

from problems import build_small_real, real_data
from problems.real_data import (
    HeldOutPictures,
    HeldOutTables,
    HeldOutText,
    Pictures,
    Tables,
    TableValues,
    Text,
)

DIGEST = "e6ae8fde1d9ce3b5cf767c0a72700566affdc9962788df41852760fa0f537c2c"
PLAIN = {"spread": 0.0, "scale_decades": 0.0}


SEEDS = 24


@functools.cache
def program(kind, method, sizes):
    def one(key, numbers):
        return getattr(kind(), method)(key, numbers, *sizes)

    return jax.jit(jax.vmap(one, (0, None)))


def draw(data, *sizes, method="draw"):
    """Instances (SEEDS, samples, ...) of inputs and of labels."""
    keys = jax.random.split(jax.random.key(0), SEEDS)
    return [np.asarray(part) for part in program(type(data), method, sizes)(keys, data.numbers)]


# The file.


def test_the_file_is_the_one_that_was_built():
    content = real_data.FILE.read_bytes()
    assert hashlib.sha256(content).hexdigest() == DIGEST
    assert len(content) < 600_000


def test_its_arrays_are_small_numbers_and_no_pictures_of_mnist():
    for name, array in real_data.arrays().items():
        assert array.dtype in (np.uint8, np.float16), name
        assert np.isfinite(array).all(), name
        assert array.shape[1:] not in ((28, 28), (784,), (32, 32), (32, 32, 3), (3072,)), name
    readme = (real_data.FILE.parent / "README.md").read_text()
    for name in real_data.arrays():
        assert f"`{name}`" in readme


def test_what_is_held_out_is_nowhere_else():
    stored = real_data.arrays()
    for picture in stored["held_out_photographs"].astype(float):
        for other in stored["photographs"].astype(float):
            assert abs(np.corrcoef(picture.ravel(), other.ravel())[0, 1]) < 0.9
    held_out = bytes(stored["held_out_text_as_you_like_it"])
    for name in ("text_alice", "text_paradise"):
        text = bytes(stored[name])
        assert not any(held_out[i : i + 60] in text for i in range(0, len(held_out) - 60, 60))
    columns = stored["held_out_table_shuttle_classes"].T
    assert all(len(table) != len(columns[0]) or not np.isin(columns[1], table[:, 1]).all()
               for name, table in stored.items() if name.startswith("table_"))


@pytest.mark.parametrize("content", [None, b"no archive"])
def test_without_the_file_there_is_one_clear_error(tmp_path, monkeypatch, content):
    path = tmp_path / "small_real.npz"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(real_data, "FILE", path)
    real_data.arrays.cache_clear()
    real_data._texts.cache_clear()
    with pytest.raises(ValueError, match=r"small_real.npz cannot be read .*README.md says how"):
        draw(Text(), 4, 5, 8)
    real_data.arrays.cache_clear()


# Pictures.


def windows():
    """The classes by the bytes of an 8 x 8 picture, of all sources: (source, class)."""
    stored, found = real_data.arrays(), {}
    for digit, label in zip(stored["digits"], stored["digit_labels"], strict=True):
        found.setdefault(real_data._shade(digit, 16).tobytes(), set()).add(("digits", int(label)))
    for label, tiles in enumerate(real_data._shade(stored["letters"], 15)):
        for tile in tiles:
            found.setdefault(tile[2:10, 2:10].tobytes(), set()).add(("letters", label))
    for label, photograph in enumerate(real_data._shade(stored["photographs"], 63)):
        for view in np.lib.stride_tricks.sliding_window_view(photograph, (8, 8))[2:-2, 2:-2]:
            for tile in view:
                found.setdefault(tile.tobytes(), set()).add(("photographs", label))
    return found


def test_pictures_that_are_not_moved_are_those_of_the_file():
    """Each class of an instance is one class of one source."""
    data, labels = draw(Pictures(**PLAIN), 64, 64, 10)
    known, sources = windows(), []
    for pictures, classes in zip(data, labels, strict=True):
        # The brightness that was taken away is one for all; where it lies leaves whole numbers.
        shades = pictures * 240
        place = np.angle(np.mean(np.exp(2j * np.pi * shades))) / (2 * np.pi)
        for offset in range(241):
            whole = np.round(shades - place) + offset
            if whole.min() >= 0 and whole.max() <= 255 and all(
                    tile.astype(np.uint8).tobytes() in known for tile in whole):
                break
        else:
            raise AssertionError("no picture of the file")
        of_class = [
            set.intersection(*(known[tile.astype(np.uint8).tobytes()]
                               for tile in whole[classes == label]))
            for label in np.unique(classes)]
        assert all(of_class)
        assert len(set.union(*of_class)) >= len(of_class)
        (source,) = set.intersection(*({source for source, _ in names} for names in of_class))
        sources.append(source)
    assert set(sources) == {"digits", "letters", "photographs"}


def test_shares_choose_the_source():
    """Of digits alone, corners are black and classes ten; letters are on black as well."""
    for shares, black in (((1.0, 0.0, 0.0), True), ((0.0, 0.0, 1.0), False)):
        names = "digits", "letters", "photographs"
        data, labels = draw(
            Pictures(**PLAIN, **dict(zip(names, shares))), 64, 64, 10)
        corner = data[:, :, 0] == data.min(axis=(1, 2))[:, None]
        assert (corner.mean() > 0.9) == black
        assert labels.max() == 9


def test_pictures_move_and_have_a_scale():
    plain, _ = draw(Pictures(**PLAIN), 64, 64, 10)
    moved, _ = draw(Pictures(scale_decades=0.0, spread=1.0), 64, 64, 10)
    assert np.mean(np.abs(moved - plain).max(axis=(1, 2)) > 0.1) > 0.8
    assert np.all(moved.max(axis=(1, 2)) <= 1.05)
    scaled, _ = draw(Pictures(scale_decades=1.0, spread=0.0), 64, 64, 10)
    factors = scaled.std(axis=(1, 2)) / plain.std(axis=(1, 2))
    assert 0.1 <= factors.min() < 0.3
    assert 3 < factors.max() <= 10


def test_finer_grids_see_the_same_pictures():
    plain, _ = draw(Pictures(**PLAIN), 64, 64, 10)
    fine, _ = draw(Pictures(**PLAIN), 64, 256, 10)
    coarse = fine.reshape(SEEDS, 64, 8, 2, 8, 2).mean(axis=(3, 5)).reshape(plain.shape)
    for a, b in zip(plain, coarse):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.85


def test_mixed_pixels_keep_their_products_about():
    plain, _ = draw(Pictures(**PLAIN), 64, 64, 10)
    mixed, _ = draw(Pictures(**PLAIN, projected=1.0), 64, 64, 10)
    lengths = np.linalg.norm(mixed, axis=2) / np.linalg.norm(plain, axis=2)
    assert np.abs(np.median(lengths) - 1) < 0.2
    assert np.corrcoef(plain.ravel(), mixed.ravel())[0, 1] < 0.5


def test_held_out_pictures_have_two_sources():
    data, labels = draw(HeldOutPictures(**PLAIN), 64, 64, 6)
    black = np.mean(data == data.min(axis=(1, 2), keepdims=True), axis=(1, 2))
    assert black.min() < 0.2
    assert black.max() > 0.4
    assert labels.max() == 5


# Few samples and noise.


def test_few_samples_come_again():
    data, labels = draw(Pictures(few_decades=1.5, **PLAIN), 64, 64, 10)
    counts = [len(np.unique(instance, axis=0)) for instance in data]
    assert min(counts) < 5
    assert 50 < max(counts) <= 64
    for instance, classes, count in zip(data, labels, counts):
        # The same picture has the same label, noise or not.
        assert len(np.unique(np.c_[instance, classes], axis=0)) == count


@pytest.mark.parametrize(
    ("data", "sizes"), [(Pictures(), (64, 64, 10)), (Tables(), (256, 16, 3))])
def test_noise_replaces_labels(data, sizes):
    inputs, clean = draw(data, *sizes)
    same, noisy = draw(dataclasses.replace(data, noise=0.4), *sizes)
    np.testing.assert_array_equal(same, inputs)
    changed = (noisy != clean).mean(axis=1) / (1 - 1 / sizes[-1])
    assert 0.27 < changed.mean() < 0.33
    assert np.all(changed < 0.6)


def test_noise_on_values_is_normal():
    inputs, clean = draw(TableValues(), 512, 4, 1)
    same, noisy = draw(TableValues(noise=0.4), 512, 4, 1)
    np.testing.assert_array_equal(same, inputs)
    noise = noisy - clean
    level = noise.std(axis=1)
    assert np.all((level > 0.18) & (level < 0.44))
    assert np.abs(np.mean(noise / level[:, None])) < 0.05
    assert np.mean((noise / level[:, None]) ** 4) == pytest.approx(3, abs=0.3)


# Tables.


@dataclasses.dataclass(frozen=True, repr=False)
class Numbered(TableValues):
    """Row r of column c has the value 100 c + r; two tables, of 5 and of 3 columns."""

    def tables(self):
        values = np.zeros((2, 20, 5), np.float32)
        values[0] = 100 * np.arange(5) + np.arange(20)[:, None]
        values[1, :8, :3] = 1000 + 100 * np.arange(3) + np.arange(8)[:, None]
        columns = np.array([[True] * 5, [True, True, True, False, False]])
        return real_data._Tables(
            values, np.zeros(values.shape, np.int32), np.ones((2, 5), np.int32),
            np.array([20, 8]), columns, columns, np.array([False, False]))


def test_a_column_is_foretold_from_others_of_its_row():
    data, target = draw(Numbered(mixed=0.0, scale_decades=0.0), 50, 2, 1)
    targets = set()
    for rows, labels in zip(np.round(data), np.round(target), strict=True):
        table, column, row = labels // 1000, labels % 1000 // 100, labels % 100
        assert len(set(table)) == 1
        assert len(set(column)) == 1
        assert row.max() < (20, 8)[int(table[0])]
        np.testing.assert_array_equal(rows % 100, np.c_[row, row])
        used = {column[0], *(rows[0] % 1000 // 100)}
        assert len(used) == 3
        assert max(used) < (5, 3)[int(table[0])]
        targets.add((int(table[0]), int(column[0])))
    assert {(0, 0), (1, 0)} < targets
    assert len(targets) > 3


def test_columns_that_are_missing_are_mixtures_of_those_there():
    (data, *_), (target, *_) = draw(Numbered(mixed=0.0, scale_decades=0.0), 50, 12, 1)
    others = 4 if target[0] < 1000 else 2
    assert np.linalg.matrix_rank(data, tol=1e-2) <= 2
    assert np.all(data[:, :others] == np.round(data[:, :others]))
    assert np.all(np.abs(data[:, others:] - np.round(data[:, others:])).max(axis=0) > 1e-3)


@pytest.mark.parametrize(("data", "features"), [(Tables(), 16), (HeldOutTables(), 9)])
def test_classes_of_tables(data, features):
    inputs, labels = draw(data, 256, features, 3)
    assert np.isfinite(inputs).all()
    assert labels.min() == 0
    assert labels.max() == 2
    for classes in labels:
        assert np.bincount(classes).max() < 0.9 * len(classes)


def test_levels():
    few, count = real_data._levels(np.array([3.0, 1.0, 3.0, 7.0]))
    assert (few.tolist(), count) == ([1, 0, 1, 2], 3)
    many, count = real_data._levels(np.r_[np.zeros(50), np.arange(1, 51)])
    assert count == 10
    assert set(many[:50]) == {2}
    assert many[50:].tolist() == sorted(many[50:])
    assert many.max() == 9


# Text.


def places(text, piece):
    """Where a text has this piece under some other names of its symbols."""
    candidates = np.arange(len(text) - len(piece) + 1)
    for i in range(len(piece)):
        for j in range(i):
            same = text[candidates + i] == text[candidates + j]
            candidates = candidates[same == (piece[i] == piece[j])]
    return candidates


@pytest.mark.parametrize(
    ("data", "books"),
    [(Text(), ("text_alice", "text_paradise")),
     (HeldOutText(), ("held_out_text_as_you_like_it",))])
def test_pieces_are_of_one_part_of_one_book(data, books):
    pieces, _ = [part[:6] for part in draw(data, 8, 60, 32)]
    stored, used, widths = real_data.arrays(), set(), []
    for instance in pieces:
        at = {book: [places(stored[book], piece) for piece in instance] for book in books}
        (book,) = (book for book in books if all(map(len, at[book])))
        starts = [found[0] for found in at[book]]
        names = {}
        for start, piece in zip(starts, instance, strict=True):
            for symbol, name in zip(stored[book][start : start + 61], piece, strict=True):
                assert names.setdefault(int(symbol), int(name)) == name
        used.add(book)
        widths.append(np.ptp(starts))
    assert used == set(books)
    assert max(widths) > 4 * min(widths)


def test_rare_symbols_become_one():
    pieces, _ = draw(Text(), 64, 40, 8)
    assert (pieces.min(), pieces.max()) == (0, 7)
    # What is not among the seven most frequent symbols: more than any other.
    assert np.all(np.bincount(pieces[0].ravel()).max() > 0.3 * pieces[0].size)


def test_noise_replaces_symbols():
    clean, _ = draw(Text(), 8, 60, 32)
    noisy, _ = draw(Text(noise=0.4), 8, 60, 32)
    changed = (noisy != clean).mean(axis=(1, 2)) / (1 - 1 / 32)
    assert np.all((changed > 0.14) & (changed < 0.47))


# How the file is made.


def test_columns_of_words_and_without_variance():
    rows = [["b", "1", "7", "x"], ["a", "2", "7", "x"], ["c", "6", "7", "y"]]
    table = build_small_real._table(rows, 3)
    assert table.dtype == np.float16
    assert table.shape == (3, 3)
    np.testing.assert_allclose(table.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(table[:, 0], [-0.707, -0.707, 1.414], atol=1e-3)
    np.testing.assert_allclose(table[:, 1], [0, -1.2247, 1.2247], atol=1e-3)


def test_texts_are_simplified():
    content = b"Preface.\nOnce, there\t was; A `fox'!  (Quick 1.)"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("book.txt")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    packed.seek(0)
    with tarfile.open(fileobj=packed) as archive:
        symbols = build_small_real._text(archive, "book.txt", "Once", 100)
    text = "".join(build_small_real.ALPHABET[s] for s in symbols)
    assert text == "once, there was, a 'fox'. quick ."


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="no_such_package is not installed; see problems/data"):
        build_small_real._file("no_such_package/data.csv")
    with pytest.raises(ValueError, match="missing: another version of sklearn"):
        build_small_real._file("sklearn/datasets/no_such_file.csv")


def test_shares_of_zero_never_win():
    """Whatever is drawn: 0 has to lose to all."""
    chance = jnp.array([0.0, 1 - 1e-7, 0.5])
    waiting = (1e-9 - jnp.log1p(-chance)) / jnp.array([0.0, 1.0, 0.0])
    assert jnp.argmin(waiting) == 1
