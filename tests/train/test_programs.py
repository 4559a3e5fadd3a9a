"""What a program is lowered to: kept, and made again where it may have changed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import problems
from hrnn_opt import HierarchicalRNN, HierarchicalRNNConfig
from problems.datasets import Digits
from problems.mnist import MNIST
from train import estimators
from train.config import TrainConfig
from train.programs import Program, described
from train.tasks import Family


@pytest.fixture(autouse=True)
def cache(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


ARGUMENTS = jnp.arange(3.0), jax.random.key(0), True


def _program(key="key", counter=None):
    """A program of a function that JAX has not seen before."""

    def traced(x, key, flag):
        if counter is not None:
            counter.append(1)
        return {"y": jnp.where(flag, 2.0, 1.0) * x + jax.random.normal(key, x.shape)}

    return Program(traced, key)


def _traces(key="key"):
    """How often the function is traced in a call."""
    counter = []
    result = _program(key, counter)(*ARGUMENTS)["y"]
    np.testing.assert_allclose(
        result, 2 * ARGUMENTS[0] + jax.random.normal(ARGUMENTS[1], (3,)), rtol=1e-6)
    return len(counter)


def test_the_next_process_does_not_trace_again():
    assert _traces() > 0
    assert _traces() == 0
    assert _traces("another key") > 0


def test_a_program_waits_for_what_it_works_on():
    program = _program()
    program(*ARGUMENTS)
    # JAX itself waits for what is quick.
    slow = jax.jit(lambda x: (x @ x @ x @ x @ x)[0, :3])
    large = jnp.ones((2000, 2000))
    slow(large).block_until_ready()
    x = slow(large)
    assert not x.is_ready()
    program(x, *ARGUMENTS[1:])
    assert x.is_ready()


def test_a_damaged_file_is_made_again(cache):
    _traces()
    (path,) = (cache / "lowered").iterdir()
    whole = path.read_bytes()
    for damaged in (b"", b"nonsense", whole[:-1], whole[:500] + b"?" + whole[501:]):
        path.write_bytes(damaged)
        assert _traces() > 0
        assert _traces() == 0


class _Mine(problems.Bowl):
    """A user's own."""


@pytest.mark.parametrize("spec, known", [
    (problems.Quadratic(20), True),
    (problems.FullyConnected(64, 10, (16,), data=Digits(), samples=100, batch_size=10), True),
    (problems.LogObjective(problems.Quadratic(20)), True),
    (_Mine(1.0, angle=0.0), False),
    (problems.LogObjective(_Mine(1.0, angle=0.0)), False),
    (problems.FullyConnected(
        784, 10, (16,), data=MNIST(data_dir="somewhere"), samples=100, batch_size=10), False),
])
def test_what_may_change_unseen_is_not_kept(spec, known):
    assert described([spec]) == known


def test_it_compiles_for_shapes_alone():
    program = _program()
    shape = jax.ShapeDtypeStruct((3,), jnp.float32)
    program.compile(shape, jax.random.key(0), True)
    assert program.shapes(shape, jax.random.key(0), True)["y"] == shape


def test_runs_of_other_seeds_share_programs():
    def key(switches=None, **settings):
        config = TrainConfig(**settings)
        network = HierarchicalRNN(switches, seed=config.seed)
        return estimators.make(Family([problems.Quadratic(3)], network, config), config)._draw._key

    assert key(seed=1, steps=5) == key(seed=2, steps=6)
    # The tensors are as many and as large, whatever learning rates are relative to.
    switches = HierarchicalRNNConfig(relative_learning_rate="tensor")
    assert len({key(), key(members=3), key(estimator="pes"), key(switches)}) == 4
