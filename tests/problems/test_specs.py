"""Specs: printing, JSON, programs, errors."""

import json

import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import problems
from problems import datasets
from problems.problem import shared_numbers

SUITES = "all", "test", "broad", "small_real", "small_real_valid"
SPECS = list(dict.fromkeys(p for name in SUITES for p in problems.suite(name)))


@pytest.mark.parametrize("problem", SPECS, ids=lambda problem: repr(problem)[:60])
def test_prints_and_serialises(problem):
    assert problems.parse(repr(problem)) == problem
    assert problems.from_json(json.loads(json.dumps(problems.to_json(problem)))) == problem


noise = st.floats(0, 1e3)
positive = st.floats(1e-3, 1e3)
size = st.integers(1, 50)
simple = st.one_of(
    st.builds(problems.Quadratic, size, noise_stdev=noise),
    st.builds(problems.Norm, size, p=st.floats(1, 9)),
    st.builds(problems.Bowl, positive, angle=st.floats(-7, 7), noise_stdev=noise),
    st.builds(problems.Rosenbrock, noise_stdev=noise),
    st.builds(
        problems.FullyConnected,
        size,
        st.just(2),
        st.lists(size, max_size=3).map(tuple),
        st.sampled_from(["relu", "tanh", "sigmoid", "gelu"]),
        data=st.builds(datasets.Teacher, label_noise=st.floats(0, 1)),
        batch_size=st.one_of(st.none(), size),
    ),
)
any_spec = st.recursive(
    simple,
    lambda inner: st.one_of(
        st.builds(problems.Rescale, inner, positive),
        st.builds(problems.LogObjective, inner),
        st.builds(problems.SparseGradients, inner, st.floats(0, 1)),
        st.builds(problems.SumOf, st.lists(inner, min_size=1, max_size=3).map(tuple)),
    ),
    max_leaves=4,
)


@given(any_spec)
@settings(max_examples=60, deadline=None)
def test_any_spec_survives_text_and_json(problem):
    assert problems.parse(repr(problem)) == problem
    assert problems.from_json(json.loads(json.dumps(problems.to_json(problem)))) == problem
    assert hash(problems.parse(repr(problem))) == hash(problem)


def test_numbers_share_a_program_and_structure_does_not():
    bowl = problems.Bowl(0.1)
    assert bowl.program == problems.Bowl(5.0, angle=1.0, noise_stdev=2.0).program
    assert bowl.program != problems.Quadratic(2).program
    wrapped = problems.Rescale(bowl, 2.0), problems.Rescale(problems.Bowl(7.0), 3.0)
    assert wrapped[0].program == wrapped[1].program
    assert problems.Quadratic(3).program != problems.Quadratic(4).program
    net = problems.FullyConnected(4, 2, (3,), data=datasets.Clusters(sep=1.0))
    other = problems.FullyConnected(4, 2, (3,), data=datasets.Clusters(sep=2.0))
    assert net.program == other.program
    relu = problems.FullyConnected(4, 2, (3,), activation="relu")
    assert net.program != relu.program


def test_the_number_of_programs_is_kept_low():
    counts = {n: len({p.program for p in problems.suite(n)}) for n in ("paper", "released")}
    assert counts == {"paper": 56, "released": 71}


def test_numbers_of_another_spec_run_through_the_same_sampler():
    weak, strong = problems.Bowl(0.1, noise_stdev=0.5), problems.Bowl(5.0, angle=1.0)
    key = jax.random.key(0)
    borrowed = weak.sample_instance(key, strong.numbers)
    assert borrowed.keys() == strong.sample_instance(key).keys()
    for name, value in strong.sample_instance(key).items():
        np.testing.assert_array_equal(borrowed[name], value)


def test_noise_that_no_spec_has_is_not_drawn():
    quiet, loud = problems.Quadratic(3), problems.Quadratic(3, noise_stdev=0.5)
    shared = shared_numbers([problems.SumOf([quiet, loud]), problems.SumOf([quiet, quiet])])
    first, second = shared["problems"]
    assert "noise_stdev" not in first
    np.testing.assert_array_equal(second["noise_stdev"], [0.5, 0.0])

    keys = jax.random.split(jax.random.key(0), 3)
    of_first = jax.tree.map(lambda numbers: numbers[0], shared_numbers([quiet, quiet]))
    gradients = []
    for numbers in (of_first, quiet.numbers, loud.numbers):
        instance = quiet.sample_instance(keys[0], numbers)
        batch = jax.tree.map(
            lambda leaf: leaf[0], quiet.batches(keys[2], jnp.int32(0), 1, instance))
        start = quiet.initial_parameters(keys[1], instance)
        gradients.append(quiet.gradient(start, instance, batch)[0])
    np.testing.assert_array_equal(gradients[0], gradients[1])
    assert np.max(np.abs(gradients[2] - gradients[1])) > 0.1


BAD = [
    ("Bowl(0)", "condition must be positive; got 0.0"),
    ("Bowl(1.0, noise_stdev=-1.0)", "noise_stdev must be at least 0; got -1.0"),
    ("Quadratic(0)", "n must be an integer of at least 1; got 0"),
    ("Quadratic(2.5)", "n must be an integer"),
    ("Quadratic(3, noise_stdev='a')", "noise_stdev must be a finite number; got 'a'"),
    ("Norm(3, p=0.5)", "p must be at least 1; got 0.5"),
    ("MatMulAlgorithm(2, 3)", r"k must be an integer from n\^2 = 4 to n\^3 = 8; got 3"),
    ("MatMulAlgorithm(2, 9)", "k must be .* got 9"),
    ("MatMulAlgorithm(1, 1)", "n must be an integer of at least 2; got 1"),
    ("SoftmaxRegression(10, batch_size=2000)", "batch_size must be .* samples=1000.*; got 2000"),
    ("SoftmaxRegression(10, batch_size=0)", "batch_size must be"),
    ("SoftmaxRegression(10, samples=0)", "samples must be"),
    ("SoftmaxRegression(10, classes=1)", "classes must be"),
    ("SoftmaxRegression(1, classes=4)", "Clusters: 4 classes need 8"),
    ("SoftmaxRegression(10, data=Digits())", "Digits: features must be 64; got 10"),
    ("SoftmaxRegression(64, 10, data=Digits(), samples=1798)", "samples must be 1 to 1797"),
    ("SoftmaxRegression(50, 10, data=Glyphs())", "Glyphs: features must be a square"),
    ("SoftmaxRegression(64, 11, data=Glyphs())", "Glyphs: classes must be 1 to 10; got 11"),
    ("FullyConnected(8, 2, (8,), activation='swish')", "activation must be one of .*relu"),
    ("FullyConnected(8, 2, (0,))", "hidden must be"),
    ("FullyConnected(8, 2, (8,), init='big')", "init must be one of paper, he"),
    ("FullyConnected(8, 3, (8,), data=RandomMLP())", "RandomMLP: classes must be 2; got 3"),
    ("ConvNet((8, 8), 10, ((3, 3, 4),))", "image must be"),
    ("ConvNet((8, 8, 1), 10, ())", "filters must be"),
    ("SumOfQuadratics(3, samples=5)", "samples must be even"),
    ("Rescale(Quadratic(3), 0)", "scale must be positive; got 0.0"),
    ("Rescale(3, 1.0)", "problem must be a problem; got 3"),
    ("SparseGradients(Quadratic(3), 1.5)", "zero_probability must be a probability"),
    ("SumOf(())", "problems must be a tuple of at least one problem"),
    ("Clusters(label_noise=2.0)", "label_noise must be a probability"),
    ("Cubic(3)", "unknown problem or data set 'Cubic'"),
    ("Quadratic(3, m=4)", "cannot be built.*'m'"),
    ("Quadratic()", "missing"),
    ("Quadratic(", "does not read as"),
    ("3", "does not read as"),
    ("Quadratic(x)", "'x' in .* is no literal value"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_bad_specs_have_one_clear_error(text, message):
    with pytest.raises(ValueError, match=message):
        problems.parse(text)


def test_unknown_suite_and_taken_names():
    with pytest.raises(ValueError, match="unknown name 'nope'"):
        problems.suite("nope")
    with pytest.raises(ValueError, match="taken"):
        problems.add_suite("paper", list)
    with pytest.raises(ValueError, match="Quadratic is taken"):
        problems.register(type("Quadratic", (), {}))


def test_the_paper_trains_on_no_network():
    def names(problem):
        yield type(problem).__name__
        for inner in getattr(problem, "problems", (getattr(problem, "problem", None),)):
            if inner is not None:
                yield from names(inner)

    used = {name for problem in problems.suite("paper") for name in names(problem)}
    assert not used & {"FullyConnected", "ConvNet", "Autoencoder"}
    released = {name for problem in problems.suite("released") for name in names(problem)}
    assert "FullyConnected" in released
    assert not any(
        isinstance(getattr(p, "data", None), problems.MNIST)
        for name in ("paper", "released", "all", "broad", "small_real", "small_real_valid")
        for p in problems.suite(name)
    )
