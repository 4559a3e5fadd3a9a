"""What the tests of `hrnn_opt` share: small models, gradients, and weights with teeth."""

import contextlib
import functools
import io

import keras
import numpy as np
from keras import ops

from hrnn_opt import HierarchicalLOpt, NetworkConfig, Pretrained
from hrnn_opt.files import format_1
from hrnn_opt.registry import config_from_dict, network_of

# The same few shapes in most tests: backends that compile each operation do so once.
SHAPES = ((3, 2), (2,), ())


@contextlib.contextmanager
def dtype_policy(name: str):
    """Keras's dtype policy, for a while."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def config_of(**switches) -> NetworkConfig:
    """The hierarchical RNN and the rules around it, by the switches that format 1 had for both."""
    return config_from_dict(format_1.translated(
        {"config": {"step_size": "learned", **switches}})["config"])


def weights(seed: int = 0, **switches) -> Pretrained:
    """Weights in which every meta-parameter matters: start values, with noise on all of them."""
    pretrained = Pretrained.from_network(network_of(config_of(**switches), seed=seed))
    rng = np.random.default_rng(seed + 100)
    arrays = {
        name: np.asarray(array + rng.normal(0, 0.2, array.shape), "float32")
        for name, array in pretrained.arrays.items()
    }
    return Pretrained(pretrained.config, arrays)


# Without networks of tensors and of the model, which what most tests ask does not depend on.
SMALL = {"time_scales": 2, "tensor_units": 0, "global_units": 0}


def optimizer(lookahead: bool = False, **arguments) -> HierarchicalLOpt:
    """An optimizer that takes steps large enough to be seen, by a network that is soon traced."""
    return HierarchicalLOpt(**{
        "weights": weights(lookahead=lookahead, **SMALL), "initial_learning_rate": 1e-2, "seed": 0,
        **arguments})


def hierarchical_optimizer(lookahead: bool = False, **arguments) -> HierarchicalLOpt:
    """The same with networks of tensors and of the model."""
    return optimizer(weights=weights(lookahead=lookahead), **arguments)


@functools.cache
def two_replicas():
    """TensorFlow's strategy for two devices: one a process, since a second one's sums take the
    places of the first one's, whatever their shapes."""
    import tensorflow as tf

    cpus = [device.name for device in tf.config.list_logical_devices("CPU")]
    assert len(cpus) == 2
    return tf.distribute.MirroredStrategy(cpus)


def variables(shapes=SHAPES, dtype: str = "float32", seed: int = 0) -> list[keras.Variable]:
    """Variables of these shapes."""
    rng = np.random.default_rng(seed)
    return [
        keras.Variable(rng.normal(size=shape).astype("float32"), dtype=dtype, name=f"v{k}")
        for k, shape in enumerate(shapes)
    ]


def gradients(steps: int, shapes=SHAPES, seed: int = 1) -> list[list[np.ndarray]]:
    """For each step, a gradient for each shape."""
    rng = np.random.default_rng(seed)
    return [[rng.normal(size=shape).astype("float32") for shape in shapes] for _ in range(steps)]


def apply(optimizer, gradients, variables, **given) -> None:
    """One step of `optimizer` for each list of gradients, None where there is none.

    Args:
        given: what else its `apply` takes.
    """
    for grads in gradients:
        grads = [
            None if g is None else ops.convert_to_tensor(g, v.dtype)
            for g, v in zip(grads, variables)]
        if keras.backend.backend() == "jax" and hasattr(optimizer, "inner_optimizer"):
            # Keras's LossScaleOptimizer has no other way there.
            _apply_stateless(optimizer, grads, variables)
        else:
            optimizer.apply(grads, variables, **given)


def _apply_stateless(optimizer, grads, variables) -> None:
    if not optimizer.built:
        optimizer.build(variables)
    new = optimizer.stateless_apply(
        [v.value for v in optimizer.variables], grads, [v.value for v in variables])
    for old, values in zip((variables, optimizer.variables), new):
        for variable, value in zip(old, values):
            variable.assign(value)


def values(variables) -> list[np.ndarray]:
    """Copies of the variables' values; of narrow floats as float32."""
    return [
        np.array(ops.convert_to_numpy(
            ops.cast(v, "float32") if keras.backend.standardize_dtype(v.dtype) == "bfloat16"
            else ops.convert_to_tensor(v)))
        for v in variables
    ]


def model(seed: int = 0, **compile_arguments) -> keras.Model:
    """A small compiled classifier; without an optimizer if none is given."""
    keras.utils.set_random_seed(seed)
    network = keras.Sequential([
        keras.Input((4,)),
        keras.layers.Dense(5, activation="tanh"),
        keras.layers.Dense(3),
    ])
    if "optimizer" in compile_arguments:
        network.compile(
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), **compile_arguments)
    return network


def data(n: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels that `model` can learn."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4)).astype("float32")
    return x, np.argmax(x[:, :3], axis=1)


def fit(network: keras.Model, epochs: int = 1, **arguments) -> dict[str, list[float]]:
    """Train on `data`, in order, in silence."""
    x, y = data()
    return network.fit(
        x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, **arguments).history


def assert_equal(ours, theirs) -> None:
    """Two lists of arrays, bit for bit."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        np.testing.assert_array_equal(a, b)


def assert_close(ours, theirs, tolerance: float = 1e-5) -> None:
    """Two lists of arrays, up to the tolerance of the largest entry."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        scale = max(np.abs(b).max(initial=0), 1e-30)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


def quiet():
    """Without what is printed."""
    return contextlib.redirect_stdout(io.StringIO())
