"""What reaches an optimizer that reads the loss and the number of steps: in `fit`, on every
backend, and in loops that others write."""

import keras
import numpy as np
import pytest
from keras import ops

from hrnn_opt import Celo, LearnedOpt, VeLO
from hrnn_opt.networks import CeloConfig, VeLOConfig
from tests.hrnn_opt.support import assert_close, data, model, two_replicas, values

BACKEND = keras.backend.backend()
STEPS = 6


def network(kind=VeLO):
    config = VeLOConfig(units=8, bank=4) if kind is VeLO else CeloConfig(units=8)
    made = kind(config)
    # Steps that are seen, whose size the loss matters for. VeLO's with more noise grow without
    # bounds, and rounding with them.
    rng = np.random.default_rng(0)
    for name, variable in made.meta_parameters.items():
        large = kind is Celo and name.startswith(("own", "lstm", "rate"))
        noise = rng.normal(0, 1.0 if large else 0.2, variable.shape)
        variable.assign(np.asarray(ops.convert_to_numpy(variable) + noise, "float32"))
    return made


# Where tracing a step takes longer than taking some.
EAGERLY = BACKEND == "tensorflow"


def trained_by_fit(optimizer, epochs=2, eagerly=EAGERLY, **arguments):
    """A model after six batches in `fit`."""
    ours = model(optimizer=optimizer, jit_compile=False, run_eagerly=eagerly)
    x, y = data(24)
    ours.fit(x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, **arguments)
    return ours


def way_of(trained) -> np.ndarray:
    """How far all weights are from where training starts. Some have hardly moved: sums cancel."""
    return np.concatenate([
        np.ravel(value - start) for value, start in zip(
            values(trained.trainable_variables), values(model().trainable_variables))])


def loss_means(optimizer) -> np.ndarray:
    return ops.convert_to_numpy(optimizer.state()["loss_means"])


def in_a_loop(optimizer, given: bool):
    """A model after the same six batches, by a loop of the backend's own. The loss is given to the
    step, or passes through `scale_loss`."""
    ours = model()
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    x, y = data(24)
    optimizer.build(ours.trainable_variables)
    for k in range(STEPS):
        part = slice(8 * (k % 3), 8 * (k % 3) + 8)
        batch = ops.convert_to_tensor(x[part]), ops.convert_to_tensor(y[part])
        STEP[BACKEND](ours, optimizer, loss_of, batch, given)
    return ours


def jax_step(ours, optimizer, loss_of, batch, given):
    import jax

    def step(tensors, state, batch):
        def loss(tensors):
            found = loss_of(batch[1], ours.stateless_call(tensors, [], batch[0])[0])
            return (found if given else optimizer.scale_loss(found)), found

        (_, found), grads = jax.value_and_grad(loss, has_aux=True)(tensors)
        return optimizer.stateless_apply(state, grads, tensors, *([found] if given else []))

    new = jax.jit(step)(
        [v.value for v in ours.trainable_variables], [v.value for v in optimizer.variables], batch)
    for variable, value in zip(
            [*ours.trainable_variables, *optimizer.variables], [*new[0], *new[1]]):
        variable.assign(value)


def tensorflow_step(ours, optimizer, loss_of, batch, given):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = loss_of(batch[1], ours(batch[0]))
        scaled = loss if given else optimizer.scale_loss(loss)
    grads = tape.gradient(scaled, [v.value for v in ours.trainable_variables])
    optimizer.apply(grads, ours.trainable_variables, loss=loss if given else None)


def torch_step(ours, optimizer, loss_of, batch, given):
    ours.zero_grad()
    loss = loss_of(batch[1], ours(batch[0]))
    (loss if given else optimizer.scale_loss(loss)).backward()
    grads = [v.value.grad for v in ours.trainable_variables]
    optimizer.apply(grads, ours.trainable_variables, loss=loss.detach() if given else None)


STEP = {"jax": jax_step, "tensorflow": tensorflow_step, "torch": torch_step}


@pytest.mark.parametrize("kind", [VeLO, Celo])
def test_fit_shows_the_loss_and_the_number_of_steps(kind):
    ours = trained_by_fit(LearnedOpt(network(kind)), eagerly=EAGERLY and kind is Celo)
    assert ours.optimizer.num_steps == STEPS
    assert int(ops.convert_to_numpy(ours.optimizer.state()["losses"])) == STEPS
    loop = in_a_loop(told := LearnedOpt(network(kind), num_steps=STEPS), given=True)
    # What weights of about 1 are rounded to is a 3,000th of Celo's steps.
    assert_close([way_of(ours)], [way_of(loop)], 1e-3)
    np.testing.assert_allclose(loss_means(ours.optimizer), loss_means(told), rtol=1e-4)
    # The loss matters.
    assert np.abs(loss_means(told)).min() > 0.1


def test_a_loop_may_pass_the_loss_through_scale_loss():
    through = in_a_loop(LearnedOpt(network(), num_steps=STEPS), given=False)
    given = in_a_loop(LearnedOpt(network(), num_steps=STEPS), given=True)
    assert_close([way_of(through)], [way_of(given)], 1e-5)


def test_what_fit_says_is_kept():
    ours = trained_by_fit(LearnedOpt(network()), epochs=1)
    assert ours.optimizer.num_steps == 3
    x, y = data(24)
    ours.fit(x, y, batch_size=8, epochs=2, verbose=0)
    assert LearnedOpt.from_config(ours.optimizer.get_config()).num_steps == 3
    assert trained_by_fit(LearnedOpt(network(), num_steps=50)).optimizer.num_steps == 50
    resumed = trained_by_fit(LearnedOpt(network()), epochs=4, initial_epoch=3)
    assert resumed.optimizer.num_steps == 3


@pytest.mark.filterwarnings("ignore")
def test_fit_on_a_generator_must_be_told():
    def batches():
        while True:
            yield data(8)

    ours = model(optimizer=LearnedOpt(network()), jit_compile=False, run_eagerly=EAGERLY)
    ours.fit(batches(), steps_per_epoch=2, epochs=2, verbose=0)
    assert ours.optimizer.num_steps == 4


def test_gradient_accumulation_averages_the_loss():
    ours = trained_by_fit(
        LearnedOpt(network(), gradient_accumulation_steps=3, learning_rate=0.0)).optimizer
    plain = model(optimizer=LearnedOpt(network(), num_steps=2, learning_rate=0.0),
                  jit_compile=False, run_eagerly=EAGERLY)
    x, y = data(24)
    plain.fit(x, y, batch_size=24, epochs=2, shuffle=False, verbose=0)
    assert ours.num_steps == 6
    assert int(ops.convert_to_numpy(ours.state()["losses"])) == 2
    np.testing.assert_allclose(loss_means(ours), loss_means(plain.optimizer), rtol=1e-5)


def test_a_loss_that_is_not_finite_is_left_out():
    optimizer = LearnedOpt(network(), num_steps=5)
    variable = keras.Variable(np.ones((2, 2), "float32"))
    grads = [ops.ones((2, 2))]
    optimizer.apply(grads, [variable], loss=ops.convert_to_tensor(1.0))
    before = values([variable, *optimizer._state_variables.values()])
    optimizer.apply(grads, [variable], loss=ops.convert_to_tensor(float("nan")))
    for a, b in zip(values([variable, *optimizer._state_variables.values()]), before):
        np.testing.assert_array_equal(a, b)
    assert int(ops.convert_to_numpy(optimizer.skipped_steps)) == 1


def test_what_is_missing_is_said():
    variable, grads = keras.Variable(np.ones((2,), "float32")), [ops.ones((2,))]
    with pytest.raises(ValueError, match="`loss` must be given to `apply` or pass through"):
        LearnedOpt(network(), num_steps=5).apply(grads, [variable])
    with pytest.raises(ValueError, match="`num_steps` must be given where it cannot be read"):
        LearnedOpt(network()).apply(grads, [variable], loss=ops.convert_to_tensor(1.0))
    for wrong in (0, 2.5, True):
        with pytest.raises(ValueError, match="`num_steps` must be an integer of at least 1"):
            LearnedOpt(network(), num_steps=wrong)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")
def test_two_replicas_see_the_loss_of_the_whole_batch():
    import tensorflow as tf

    def trained_by(strategy):
        with strategy.scope():
            # Steps of this network are chaotic: rounding would be seen in them, and not the loss.
            ours = model(optimizer=LearnedOpt(network(), learning_rate=0.0), jit_compile=False)
        x, y = data(24)
        ours.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
        assert ours.optimizer.num_steps == STEPS
        return [loss_means(ours.optimizer)]

    assert_close(
        trained_by(two_replicas()),
        trained_by(tf.distribute.get_strategy()), 1e-5)
