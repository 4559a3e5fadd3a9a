"""The few things that Keras's backends do differently and that the optimizer has to know."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
from keras import ops

# What `floatx` was when each of those entered that are inside `float32` now.
_outside: list[str] = []


def dense(gradient: Any, shape: Sequence[int]) -> Any:
    """A gradient as a tensor: TensorFlow gives an embedding's as slices of its rows, and on JAX a
    sparse array may be given."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if isinstance(gradient, tf.IndexedSlices):
            # Not `convert_to_tensor`, whose result has no static shape inside a tf.function.
            return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, shape[0])
    return ops.convert_to_tensor(gradient, sparse=False)


def _traced(value: Any) -> bool:
    import jax

    return isinstance(value, jax.core.Tracer)


def is_seen(condition: Any) -> bool:
    """Whether a () boolean holds and Python can see that now, without waiting for a device: only
    operation by operation on PyTorch and a CPU is it looked at."""
    if keras.backend.backend() != "torch":
        return False
    import torch

    return (not torch.compiler.is_compiling() and condition.device.type == "cpu"
            and bool(condition))


def all_finite(x: Any) -> Any:
    """() boolean: whether all numbers of a tensor are finite."""
    if keras.backend.backend() == "torch":
        # Both are NaN if one number is. In one pass, where `isfinite` takes five.
        return ops.logical_and(*map(ops.isfinite, x.aminmax()))
    return ops.all(ops.isfinite(x))


def largest_size(x: Any) -> Any:
    """(..., 1, 1) the largest size of a number in a (..., B, L) buffer."""
    if overwrites() and len(x.shape) == 2:
        least, most = x.aminmax()
        return ops.reshape(ops.maximum(most, -least), (1, 1))
    return ops.max(ops.abs(x), axis=(-2, -1), keepdims=True)


def overwrites() -> bool:
    """Whether what is computed may be written over what is done with, as it is computed: operation
    by operation on PyTorch, where nothing is recorded for a derivative."""
    if keras.backend.backend() != "torch":
        return False
    import torch

    return not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def compiled_by_xla() -> bool:
    """Whether something is being traced for XLA: on JAX inside of `jit`, on TensorFlow if the
    function around it has `jit_compile`, as Keras's training step has where the model allows it.
    TensorFlow has no public name for that."""
    if keras.backend.backend() == "jax":
        import jax

        return _traced(jax.numpy.zeros(()))
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def cond(condition: Any, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    """`ops.cond`, without compiling a branch where the condition is known: operation by operation,
    JAX would compile it anew at each call."""
    if keras.backend.backend() == "jax" and not _traced(condition):
        return then() if condition else otherwise()
    return ops.cond(condition, then, otherwise)


def _scoped(function: Callable[[], Any], variables: Sequence[keras.Variable]) -> list[Any]:
    """What the variables would hold after a function that assigns to them; they stay as they are.
    All that it reads and changes must be among them."""
    held = [(variable, variable.value) for variable in variables]
    with keras.StatelessScope(state_mapping=held) as scope:
        function()
    return [scope.get_current_value(variable) for variable in variables]


def either(
    condition: Any, then: Callable[[], None], otherwise: Callable[[], None],
    variables: Sequence[keras.Variable],
) -> None:
    """Call one of two functions that assign to variables.

    Args:
        condition: () boolean.
        then, otherwise: what to call where it holds, and where it does not. On JAX, inside of
            `jit`, both are computed, and each variable's value is chosen.
        variables: all that they read and change.
    """
    condition = ops.convert_to_tensor(condition)
    if keras.backend.backend() == "jax" and _traced(condition):
        old = [variable.value for variable in variables]
        pairs = zip(_scoped(then, variables), _scoped(otherwise, variables))
        for variable, before, (new, other) in zip(variables, old, pairs):
            if new is not before or other is not before:
                variable.assign(ops.where(condition, new, other))
        return
    one_of(ops.cast(ops.logical_not(condition), "int32"), [then, otherwise], variables)


def one_of(
    index: Any, functions: Sequence[Callable[[], None]], variables: Sequence[keras.Variable]
) -> None:
    """Call one of several functions that assign to variables, and compute nothing of the others.

    Args:
        index: () integer: which.
        functions: what to call.
        variables: all that they read and change.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if not tf.executing_eagerly():
            tf.switch_case(index, [_returning_nothing(function) for function in functions])
            return
    elif keras.backend.backend() == "jax" and _traced(index):
        values = ops.switch(
            index, [lambda f=function: _scoped(f, variables) for function in functions])
        for variable, value in zip(variables, values):
            variable.assign(value)
        return
    functions[int(index)]()


def _returning_nothing(function: Callable[[], None]) -> Callable[[], None]:
    def call() -> None:
        function()

    return call


def torch_program(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled by PyTorch, once for each shape of its arguments; where that fails, the
    function as it is, with a warning."""
    import torch

    program = torch.compile(function, dynamic=False)

    def call(*arguments: Any) -> Any:
        nonlocal program
        try:
            return program(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            warnings.warn(
                f"`jit_compile` has no effect, since PyTorch cannot compile the step: {error}",
                stacklevel=2)
            program = function
            return function(*arguments)

    return call


def on_accelerator() -> bool:
    """Whether JAX or TensorFlow has more to compute on than a CPU."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() != "cpu"
    import tensorflow as tf

    return any(tf.config.list_logical_devices(kind) for kind in ("GPU", "TPU"))


def outside_of_graph() -> contextlib.AbstractContextManager:
    """Where TensorFlow makes variables, if it is tracing the first training step."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.init_scope()
    return contextlib.nullcontext()


def no_gradient() -> contextlib.AbstractContextManager:
    """Outside of autograd, where the backend records eagerly."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()
    return contextlib.nullcontext()


@contextlib.contextmanager
def float32() -> Iterator[None]:
    """Where Keras's global `floatx` is float32. It is the models' business; Keras makes all that
    says nothing else of it, on JAX integers too where it is bfloat16."""
    _outside.append(keras.config.floatx())
    keras.config.set_floatx("float32")
    try:
        yield
    finally:
        # Only whoever leaves last: TensorFlow runs a thread for each replica, which wait for each
        # other inside.
        if len(_outside) == 1:
            keras.config.set_floatx(_outside[0])
        _outside.pop()


def replicated() -> contextlib.AbstractContextManager:
    """Where variables that say nothing else are on every device, whatever a layout map says of
    their paths: it is meant for the model's."""
    distribution = keras.distribution.distribution()
    if not isinstance(distribution, keras.distribution.ModelParallel):
        return contextlib.nullcontext()
    return keras.distribution.ModelParallel(
        layout_map=keras.distribution.LayoutMap(distribution.device_mesh),
        batch_dim_name=distribution.batch_dim_name).scope()
