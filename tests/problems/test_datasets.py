"""The data generators have the distributions that they claim."""

import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats
from sklearn.datasets import load_digits, make_classification

from problems import datasets


def draw_many(spec, count, samples, features, classes):
    """Data sets (count, samples, ...) and labels (count, samples), drawn side by side."""

    def one(key):
        return spec.draw(key, spec.numbers, samples, features, classes)

    keys = jax.random.split(jax.random.key(0), count)
    data, labels = jax.jit(jax.vmap(one))(keys)
    assert labels.shape == (count, samples)
    assert labels.dtype == jnp.int32
    return np.asarray(data), np.asarray(labels)


def draw(spec, samples, features, classes):
    data, labels = draw_many(spec, 1, samples, features, classes)
    return data[0], labels[0]


def test_clusters_have_make_classifications_moments():
    """Mean and spread over many sets: sep on the vertices plus U(-1, 1) mixing."""
    ours, _ = draw_many(datasets.Clusters(sep=1.5), 30, 400, 6, 2)
    settings = {"n_informative": 6, "n_redundant": 0, "class_sep": 1.5}
    theirs = [make_classification(400, 6, random_state=s, **settings)[0] for s in range(30)]
    assert np.var(ours) == pytest.approx(np.var(theirs), rel=0.1)
    assert np.var(ours) == pytest.approx(1.5**2 + 6 / 3, rel=0.1)
    assert stats.ks_2samp(np.ravel(ours)[::50], np.ravel(theirs)[::50]).pvalue > 1e-3


def test_clusters_sit_on_distinct_vertices_in_equal_parts():
    spec = datasets.Clusters(sep=100.0, label_noise=0.0)
    for data, labels in zip(*draw_many(spec, 10, 400, 2, 2), strict=True):
        vertices, counts = np.unique(np.sign(data), axis=0, return_counts=True)
        assert len(vertices) == 4
        assert set(counts) == {100}
        assert np.bincount(labels).tolist() == [200, 200]


def test_label_noise():
    spec, clean = datasets.Clusters(label_noise=0.4), datasets.Clusters(label_noise=0.0)
    flips = draw(spec, 20000, 4, 4)[1] != draw(clean, 20000, 4, 4)[1]
    assert flips.mean() == pytest.approx(0.4 * 3 / 4, abs=0.015)


def test_scale_decades():
    spec, plain = datasets.Teacher(scale_decades=1.0), datasets.Teacher()
    data, unscaled = draw_many(spec, 60, 50, 4, 2)[0], draw_many(plain, 60, 50, 4, 2)[0]
    scales = np.log10(data.std(axis=(1, 2)) / unscaled.std(axis=(1, 2)))
    assert -1 <= scales.min() < -0.6
    assert 0.6 < scales.max() <= 1


def test_random_mlp_labels_are_mixed():
    data, labels = draw_many(datasets.RandomMLP(), 40, 500, 8, 2)
    assert set(np.unique(labels)) == {0, 1}
    shares = labels.mean(axis=1)
    data = data[0]
    assert stats.kstest(np.ravel(data), "norm").pvalue > 1e-3
    assert 0.2 < np.mean(shares) < 0.8


def test_teacher_classes_are_balanced():
    _, labels = draw(datasets.Teacher(), 2000, 8, 5)
    assert np.bincount(labels, minlength=5).min() > 150


def test_digits_are_the_digits():
    images, labels = draw(datasets.Digits(), 500, 64, 10)
    rows = {tuple(row): label for row, label in zip(*load_digits(return_X_y=True), strict=True)}
    assert [rows[tuple(row * 16)] for row in images] == labels.tolist()
    assert len(np.unique(images, axis=0)) > 490


@pytest.mark.parametrize("side", [8, 14])
def test_glyphs_are_digits_of_many_shapes(side):
    images, labels = draw(datasets.Glyphs(), 3000, side * side, 10)
    assert images.min() == 0 and 0.9 < images.max() <= 1
    assert len(np.unique(images, axis=0)) == 3000
    # About half of them are still nearest to the mean digit of their class; of digits, nine tenths.
    places = np.round((np.arange(8) + 0.5) * side / 8 - 0.5).astype(int)
    coarse = images.reshape(-1, side, side)[:, places][:, :, places].reshape(-1, 64)
    digits, targets = load_digits(return_X_y=True)
    means = np.stack([digits[targets == k].mean(axis=0) / 16 for k in range(10)])
    nearest = np.linalg.norm(coarse[:, None] - means, axis=2).argmin(axis=1)
    assert 0.4 < np.mean(nearest == labels) < 0.7


def test_digits_dealt_to_fewer_classes():
    images, labels = draw(datasets.Digits(), 1797, 64, 3)
    rows = {tuple(row): label for row, label in zip(*load_digits(return_X_y=True), strict=True)}
    pairs = {(rows[tuple(row * 16)], label) for row, label in zip(images, labels.tolist())}
    assert len(pairs) == 10
    assert {label for _, label in pairs} == {0, 1, 2}


def test_noisy_parity():
    data, labels = draw(datasets.NoisyParity(), 8000, 5, 2)
    assert data.mean() == pytest.approx(0.5, abs=0.02)
    flipped = (data.sum(axis=1).astype(int) + labels) % 2
    assert flipped.mean() == pytest.approx(0.25, abs=0.02)


def test_binary_vectors_and_symmetric_gaussians():
    data, _ = draw(datasets.BinaryVectors(), 4000, 3, 2)
    assert set(np.unique(data)) == {0, 1}
    assert data.mean() == pytest.approx(0.5, abs=0.02)
    data, _ = draw(datasets.SymmetricGaussian(), 4000, 3, 2)
    np.testing.assert_array_equal(data[:2000], -data[2000:])
    assert stats.kstest(data[:2000].ravel(), "norm").pvalue > 1e-3


def test_markov_text_follows_one_transition_table():
    text, _ = draw(datasets.MarkovText(sharpness=0.0), 2000, 5, 4)
    assert text.shape == (2000, 6)
    assert stats.chisquare(np.bincount(text.ravel(), minlength=4)).pvalue > 1e-3
    sharp, _ = draw(datasets.MarkovText(sharpness=4.0), 4000, 6, 3)
    tables = []
    for part in (sharp[:2000], sharp[2000:]):
        pairs = part[:, :-1].ravel() * 3 + part[:, 1:].ravel()
        counts = np.bincount(pairs, minlength=9).reshape(3, 3)
        tables.append(counts / counts.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(*tables, atol=0.05)
    assert tables[0].max() > 0.6
