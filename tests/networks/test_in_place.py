"""What PyTorch writes over is what the functions give that are differentiated."""

import keras
import numpy as np
import pytest
from keras import ops

from hrnn_opt.networks import accumulators, functions
from hrnn_opt.networks.hrnn.cells import BiasGRU
from hrnn_opt.places import backend, sweep
from hrnn_opt.places.layout import block_sums

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="only PyTorch writes over what is done with")
RNG = np.random.default_rng(0)


def both_ways(function, *arrays):
    """What it gives recorded and not, and that its arguments stay as they were."""
    import torch

    given = [ops.convert_to_tensor(array) for array in arrays]
    with torch.enable_grad():
        assert not backend.overwrites()
        recorded = ops.convert_to_numpy(function(*given))
    with torch.no_grad():
        assert backend.overwrites()
        written = ops.convert_to_numpy(function(*given))
    for array, tensor in zip(arrays, given):
        np.testing.assert_array_equal(array, ops.convert_to_numpy(tensor))
    return recorded, written


def normal(*shape):
    return RNG.normal(size=shape).astype("float32")


def test_asinh():
    x = np.concatenate([
        normal(10_000) * np.logspace(-30, 12, 10_000, dtype="float32"),
        np.array([0, 0.5, -0.5, 1e9, -1e30, np.inf], "float32")]).astype("float32")
    recorded, written = both_ways(functions.asinh, x)
    np.testing.assert_allclose(written, recorded, rtol=1e-6, atol=0)
    assert np.isnan(both_ways(functions.asinh, np.array([np.nan], "float32"))[1]).all()


@pytest.mark.parametrize("shape", [(), (5,), (7, 40)])
def test_gru_and_its_bias(shape):
    layer = BiasGRU(4, 3, lambda shape, dtype=None: normal(*shape))
    recorded, written = both_ways(
        layer.call, normal(4, *shape), normal(3, *shape),
        normal(9, *shape[:-1], *([1] if shape else [])))
    np.testing.assert_allclose(written, recorded, rtol=0, atol=1e-6)


def test_affine_and_running_means():
    recorded, written = both_ways(functions.affine, normal(4, 3), normal(4, 7, 40), normal(3))
    np.testing.assert_array_equal(written, recorded)
    kept = RNG.uniform(size=(3, 7, 1)).astype("float32")
    recorded, written = both_ways(
        accumulators.running, kept, normal(3, 7, 40), normal(7, 40))
    np.testing.assert_allclose(written, recorded, rtol=0, atol=1e-6)


def test_sums_over_lanes_that_are_used():
    recorded, written = both_ways(
        lambda x: block_sums(x, np.array([40, 3], "int32")), normal(5, 2, 40))
    np.testing.assert_array_equal(written, recorded)


@pytest.mark.parametrize("value", [1.0, np.nan, np.inf, -np.inf])
def test_finite_numbers_and_their_size(value):
    x = normal(7, 40)
    x[3, 5] = value
    recorded, written = both_ways(backend.all_finite, x)
    assert recorded == written == np.isfinite(value)
    np.testing.assert_array_equal(*both_ways(backend.largest_size, x))


def test_entries_some_after_others(monkeypatch):
    monkeypatch.setattr(sweep, "_AT_ONCE", {"eager": 4})

    def function(x, y, none):
        assert none is None
        return x + y, None, x * y

    recorded, written = both_ways(
        lambda x, y: ops.stack(sweep.entrywise(function, x, y, None)[::2]), normal(9, 5),
        normal(9, 5))
    np.testing.assert_array_equal(written, recorded)
