"""The optimizers that others released, on recordings of their programs' first steps."""

import pathlib

import numpy as np
import pytest

from eval.conformance import learned
from eval.conformance.recording import FormatError, read
from hrnn_opt.networks import celo2, losses, moments, schedule, small_fc

DATA = pathlib.Path(__file__).parents[1] / "data" / "learned"
# What the recordings' makers ask for, of the parameters.
ASKED = {
    "celo_phase1": 2e-5, "celo_phase2": 2e-5,
    "celo2_base": 2e-5, "celo2_metatrain": 5e-5, "celo2_mixed": 2e-5, "celo2_ortho": 2e-5,
    "mulo_clip": 2e-5, "mulo_nan": 2e-5, "mulo_velo": 2e-4,
    "velo_flawed": 2e-5, "velo_multi": 1e-4, "velo_ties": 2e-5, "velo_wrapped": 1e-4,
    "small_fc_edge": 2e-5, "small_fc_multi": 2e-5, "small_fc_ties": 2e-5,
}


def arrays(name: str, steps: int | None = None) -> dict[str, np.ndarray]:
    content = read(DATA / f"{name}.npz")
    return content if steps is None else {**content, "T": np.array(steps)}


def test_all_recordings_are_here():
    assert {path.stem for path in DATA.glob("*.npz")} == set(ASKED)


@pytest.mark.parametrize("name", ASKED)
def test_the_released_program_is_reproduced(name):
    worst, tolerances = learned.replay(arrays(name))
    assert 0 < worst["parameters"] < ASKED[name]
    for quantity, deviation in worst.items():
        assert deviation <= tolerances[quantity], quantity


@pytest.mark.jax_only
@pytest.mark.parametrize("constant, value", [
    ("_EPSILON", 1e-6), ("_NORM_EPSILON", 1e-5), ("_ROUNDS", 4), ("LARGEST_GRADIENT", 0.1)])
def test_another_celo2_is_found_out(constant, value, monkeypatch):
    monkeypatch.setattr(celo2, constant, value)
    worst, tolerances = learned.replay(arrays("celo2_ortho"))
    assert any(worst[name] > tolerances[name] for name in worst)


@pytest.mark.jax_only
@pytest.mark.parametrize("module, constant, value", [
    (losses, "SHORTEST", 9.0), (losses, "_FAR", 1.0), (schedule, "_FORGET_BIAS", 0.0),
    (schedule, "LARGEST_GRADIENT", 1.0)])
def test_another_velo_is_found_out(module, constant, value, monkeypatch):
    monkeypatch.setattr(module, constant, value)
    worst, tolerances = learned.replay(arrays("velo_multi"))
    assert any(worst[name] > tolerances[name] for name in worst)


@pytest.mark.jax_only
@pytest.mark.parametrize("module, constant, value", [
    (small_fc, "_EPSILON", 1e-7), (small_fc, "_NORM_EPSILON", 1e-6), (moments, "_LEAST", 1e-8),
    (moments, "_READ_EPSILON", 1e-7),
    (moments, "factored_axes", lambda shape: tuple(int(k) for k in np.argsort(shape)[-2:]))])
def test_a_network_that_does_something_else_is_found_out(module, constant, value, monkeypatch):
    monkeypatch.setattr(module, constant, value)
    moments.factored_of.cache_clear()
    worst, tolerances = learned.replay(arrays("small_fc_ties", 2))
    moments.factored_of.cache_clear()
    assert any(worst[name] > tolerances[name] for name in worst)


def test_a_recording_that_says_something_else_is_found_out():
    content = arrays("small_fc_edge", 2)
    for key, quantity in (("param/1/2", "parameters"), ("feature/0/2", "inputs"),
                          ("mom/0/2", "moments"), ("fac_col/0/2", "moments")):
        changed = content[key].copy()
        changed.reshape(-1)[0] += 1e-2
        worst, tolerances = learned.replay({**content, key: changed})
        assert worst[quantity] > tolerances[quantity], key


def test_a_recording_of_no_optimizer_is_refused():
    content = arrays("small_fc_edge", 2)
    del content["meta/nn/~/w1"]
    with pytest.raises(FormatError, match=r"nn/~/b1"):
        learned.replay(content)
    for key in [key for key in content if key.startswith("meta")]:
        del content[key]
    with pytest.raises(FormatError, match="no optimizer that is known"):
        learned.replay(content)
