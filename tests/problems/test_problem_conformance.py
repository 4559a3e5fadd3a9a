"""Values and gradients of the authors' released program."""

import pathlib

import pytest

pytest.importorskip("jax")

import numpy as np

from eval.conformance.problems import replay

RECORDED = pathlib.Path(__file__).parents[1] / "data" / "problems.npz"


@pytest.fixture(scope="module")
def recorded():
    with np.load(RECORDED) as archive:
        return dict(archive)


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "problems.npz"
        np.savez(path, **content)
        return path

    return write


def test_released_program_is_reproduced(recorded):
    deviations = replay(RECORDED)
    assert set(deviations) == {key.split("/")[0] for key in recorded}
    assert {name: d for name, d in deviations.items() if not d.passed} == {}


def pick(recorded, name, new=None):
    return {
        key.replace(name, new or name, 1): value
        for key, value in recorded.items()
        if key.startswith(f"{name}/")
    }


@pytest.mark.parametrize("item", ["objective", "grad/0"])
def test_small_deviation_fails(recorded, write, item):
    content = pick(recorded, "branin")
    content[f"branin/1/{item}"] = content[f"branin/1/{item}"] * (1 + 3e-5)
    assert not replay(write(content))["branin"].passed


def test_large_values_have_the_wider_tolerance(recorded, write):
    content = pick(recorded, "rosenbrock")
    content["rosenbrock/0/objective"] = content["rosenbrock/0/objective"] * (1 + 3e-5)
    assert content["rosenbrock/0/objective"] > 1e4
    assert replay(write(content))["rosenbrock"].passed


def test_sizes_may_come_from_the_tensors(recorded, write):
    content = pick(recorded, "quadratic_20", "quadratic")
    content |= pick(recorded, "dependency_chain_12", "dependency_chain")
    content |= pick(recorded, "fully_connected_12_8_5_3_sigmoid", "fully_connected")
    assert all(deviation.passed for deviation in replay(write(content)).values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {}, "holds no problems"),
        (lambda c: {"nothing/0/param/0": np.zeros(2), **c}, "nothing"),
        (lambda c: {k.replace("booth", "boot"): v for k, v in c.items()}, "'boot' is no problem"),
        (lambda c: {**c, "booth/0/hessian": np.zeros(2)}, "no key of a problem file"),
        (lambda c: {k: v for k, v in c.items() if k != "booth/0/grad/0"}, "as many param as grad"),
        (lambda c: {**c, "booth/0/param/0": np.zeros(3, np.float32)}, "tensors of shapes"),
        (lambda c: {**c, "booth/0/grad/0": np.zeros(3, np.float32)}, "has shape"),
        (lambda c: {**c, "booth/0/objective": np.float32(np.nan)}, "finite"),
    ],
)
def test_malformed_files_have_one_clear_error(recorded, write, change, message):
    with pytest.raises(ValueError, match=message):
        replay(write(change(pick(recorded, "booth"))))


def test_missing_instance_arrays_are_named(recorded, write):
    content = pick(recorded, "quadratic_20")
    del content["quadratic_20/w"]
    with pytest.raises(ValueError, match="lacks quadratic_20/w"):
        replay(write(content))


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match="not a readable"):
        replay(tmp_path / "text.npz")
