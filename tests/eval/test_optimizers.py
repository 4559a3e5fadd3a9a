import os
import sys

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


def test_soap_steps_as_pytorch_does_and_starts_anew():
    torch = pytest.importorskip("torch")
    from pytorch_optimizer import SOAP

    variables = [keras.Variable(value) for value in START]
    optimizer = optimizers.build("soap", learning_rate=0.1, schedule="cosine", steps=30)
    optimizer.build(variables)

    @jax.jit
    def run(values, state):
        def step(carry, _):
            return optimizer.stateless_apply(carry[1], gradients(carry[0]), carry[0]), None

        return jax.lax.scan(step, (values, state), length=30)[0]

    state = [variable.value for variable in optimizer.variables]
    tensors = [torch.tensor(value) for value in START]
    theirs = SOAP(tensors)
    for step in range(30):
        theirs.param_groups[0]["lr"] = 0.05 * (1 + np.cos(np.pi * step / 30))
        for tensor, scale in zip(tensors, SCALES):
            tensor.grad = torch.tensor(scale) * tensor
        theirs.step()
    # The second time says that nothing of the first is left on the host.
    for _ in range(2):
        values, after = run(START, state)
        for ours, expected, start in zip(values, tensors, START):
            np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4)
            assert np.abs(ours - start).max() > 1e-2
    # An optimizer that did not begin has nothing to go on from.
    optimizer._inner = None
    with pytest.raises(Exception, match="cannot go on at step 30"):
        jax.block_until_ready(run(values, after))


def test_soap_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(ImportError, match="soap needs `pip install torch pytorch-optimizer`"):
        optimizers.build("soap", learning_rate=0.1, schedule="constant", steps=1)


@pytest.mark.parametrize("name", optimizers.TODAY)
def test_baselines_of_today_go_by_the_rate_and_say_where_they_are_from(name):
    def moved(rate):
        rate *= optimizers.RATE_FACTORS.get(name, 1.0)
        variables = [keras.Variable(value) for value in START]
        optimizer = optimizers.build(name, learning_rate=rate, schedule="constant", steps=1)
        optimizer.build(variables)
        values, state = START, [variable.value for variable in optimizer.variables]
        for _ in range(3):
            values, state = optimizer.stateless_apply(state, gradients(values), values)
        return max(np.abs(a - b).max() for a, b in zip(values, START))

    assert moved(1e-2) > 5 * moved(1e-3) > 0
    library, path = optimizers.LIBRARIES[name]
    assert path.startswith(library.replace("-", "_"))


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
