"""Compiling is most of these tests' time, and the code compiled runs for milliseconds."""

import pytest


@pytest.fixture(autouse=True)
def quick_compilation():
    jax = pytest.importorskip("jax")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
