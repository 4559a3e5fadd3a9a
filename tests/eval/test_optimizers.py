import os

import numpy as np
import pytest

if os.environ.get("KERAS_BACKEND") != "jax":
    pytest.skip("needs the JAX backend", allow_module_level=True)

import jax
import keras
import optax

from eval.runs import optimizers
from eval.runs.jax_session import final_values

START = [np.array([[1.0, -2.0], [0.5, 3.0]], "float32"), np.array([0.1, 0.2], "float32")]
SCALES = [np.array([[1.0, 10.0], [0.1, 1.0]], "float32"), np.array([3.0, 1.0], "float32")]


def gradients(values):
    return [scale * value for scale, value in zip(SCALES, values)]


@pytest.mark.parametrize("name, function", [("prodigy", "prodigy"), ("dadapt", "dadapt_adamw")])
def test_optimizers_of_optax_step_as_optax_does(name, function):
    variables = [keras.Variable(value) for value in START]
    optimizer = optimizers.build(name, learning_rate=None, schedule="constant", steps=1)
    optimizer.build(variables)

    @jax.jit
    def step(values, state):
        return optimizer.stateless_apply(state, gradients(values), values)

    values, state = START, [variable.value for variable in optimizer.variables]
    transformation = getattr(optax.contrib, function)()
    expected, their_state = START, transformation.init(START)
    for _ in range(20):
        values, state = step(values, state)
        updates, their_state = transformation.update(gradients(expected), their_state, expected)
        expected = optax.apply_updates(expected, updates)
    for ours, theirs, start in zip(values, expected, START):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
        assert np.abs(ours - start).max() > 1e-6


def test_schedule_free_is_evaluated_at_the_average():
    variables = [keras.Variable(value) for value in START]
    optimizer = optimizers.ScheduleFree(learning_rate=0.1)
    optimizer.build(variables)
    fast = []
    for _ in range(5):
        optimizer.apply(gradients([np.asarray(v) for v in variables]), variables)
        fast.append([np.asarray(momentum) for momentum in optimizer._momentums])

    class Model:
        trainable_variables = variables

    found = final_values(Model, optimizer, [v.value for v in variables],
                         [v.value for v in optimizer.variables])
    for value, iterates in zip(found, zip(*fast)):
        np.testing.assert_allclose(value, np.mean(iterates, axis=0), rtol=1e-5, atol=1e-6)
