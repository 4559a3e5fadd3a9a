"""One run of pytest tests one Keras backend, the one in `KERAS_BACKEND` (JAX if it is not set).

`tests/hrnn_opt` and the modules in `EVERY_BACKEND` run on every backend. All else is code written
in JAX: its tests are left out of the other runs, and so are single tests marked `jax_only`.
"""

import gc
import os
import pathlib
from collections.abc import Iterator

from tests import quickly

# Read when the backends are imported, so before all else. Tests work on small arrays, and two
# processes share the machine: more threads would only wait for each other.
for variable, value in {
    "KERAS_BACKEND": "jax",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen=false {quickly.FLAGS}",
    "JAX_PLATFORMS": "cpu",
    # Many tests compile the same program.
    "JAX_COMPILATION_CACHE_DIR": str(pathlib.Path(__file__).parents[1] / ".jax_cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    # No operation is told where in the source it came from.
    "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0",
    "CUDA_VISIBLE_DEVICES": "",
    # Where this is set, `python -m train` does not start itself again, after all its imports.
    "GLIBC_TUNABLES": "",
}.items():
    os.environ.setdefault(variable, value)

import hypothesis  # noqa: E402
import keras  # noqa: E402
import pytest  # noqa: E402

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    # A second device, for the tests of training on several.
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)

HERE = pathlib.Path(__file__).parent
BACKEND = keras.backend.backend()
EVERY_BACKEND = (
    "hrnn_opt", "networks", "eval/test_conformance.py", "eval/test_runner.py",
    "eval/test_step_cost.py", "test_wheel.py")

# The same examples in every run.
hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, max_examples=25, database=None)
hypothesis.settings.load_profile("repeatable")


def pytest_ignore_collect(collection_path: pathlib.Path) -> bool | None:
    """Leave out tests of code that the backend of this run cannot run."""
    if BACKEND == "jax" or not collection_path.name.startswith("test_"):
        return None
    path = collection_path.relative_to(HERE)
    everywhere = any(path.is_relative_to(place) for place in EVERY_BACKEND)
    return None if everywhere else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked for JAX alone."""
    if BACKEND == "jax":
        return
    skip = pytest.mark.skip(reason="written in JAX")
    for item in items:
        if "jax_only" in item.keywords:
            item.add_marker(skip)


def pytest_collection_finish() -> None:
    """Keep what has been imported, millions of objects, from being looked through at each garbage
    collection: TensorFlow and JAX make enough objects for very many."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(autouse=True)
def room_for_programs() -> Iterator[None]:
    """Unload JAX's programs where they have taken most of the memory maps that a process may have:
    XLA ends it where there are no more."""
    yield
    if BACKEND != "jax":
        return
    import jax

    from train.machine import memory_maps_used

    if memory_maps_used() > 0.6:
        jax.clear_caches()
