"""The switch is a Keras optimizer like any other, and chooses as it should."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from hrnn_opt import GreedySwitch, LearnedOpt, SwitchDynamics
from hrnn_opt.switch import scores as scores_lib
from tests import quickly
from tests.hrnn_opt.support import (
    apply,
    assert_close,
    assert_equal,
    data,
    dtype_policy,
    fit,
    gradients,
    model,
    values,
    variables,
    weights,
)

SGD, Adam, RMSprop = keras.optimizers.SGD, keras.optimizers.Adam, keras.optimizers.RMSprop


def switch(**settings) -> GreedySwitch:
    return GreedySwitch(
        [Adam(0.01, name="adam"), SGD(0.1, momentum=0.9, name="sgd")], **settings)


def linear(optimizer, **compile_arguments) -> keras.Model:
    """A small compiled classifier of two tensors: a step of a switch is large to compile."""
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    network.compile(
        optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **compile_arguments)
    return network


def numpy(x):
    return np.array(ops.convert_to_numpy(x))


# What is refused.


@pytest.mark.parametrize("make, said", [
    (lambda: GreedySwitch([SGD()]), "`candidates` must be a list of at least 2 .*got 1"),
    (lambda: GreedySwitch(SGD()), "`candidates` must be a list.*got SGD"),
    (lambda: GreedySwitch([SGD(), "adam"]), "`candidates` must be Keras optimizers.*got str"),
    (lambda: GreedySwitch([SGD(), keras.optimizers.LossScaleOptimizer(SGD())]), "LossScale"),
    (lambda: GreedySwitch([SGD(), Adam(use_ema=True)]), "leave `use_ema` to the switch"),
    (lambda: GreedySwitch([SGD(), Adam(gradient_accumulation_steps=2)]), "accumulation"),
    (lambda: GreedySwitch([SGD()] * 2), "different objects"),
    (lambda: switch(scope="layer"), "`scope` must be one of .*got 'layer'"),
    (lambda: switch(score="loss"), "`score` must be one of .*got 'loss'"),
    (lambda: switch(score="filter"), "all SGD or all Adam"),
    (lambda: GreedySwitch([SGD(), RMSprop()], score="filter"), "got RMSprop"),
    (lambda: switch(smoothing=1.0), "`smoothing` must be .* below 1, got 1.0"),
    (lambda: switch(margin=-1), "`margin` must be a finite number of at least 0, got -1"),
    (lambda: switch(soft_reset=2), "`soft_reset` must be a number from 0 to 1, got 2"),
    (lambda: switch(patience=0), "`patience` must be an integer of at least 1, got 0"),
    (lambda: switch(first=2), "`first` must be below the number of candidates, 2, got 2"),
    (lambda: switch(holdout=1), "`holdout` must be True or False, got 1"),
    (lambda: GreedySwitch([switch(), SGD()]), "none that holds others.*got GreedySwitch"),
    (lambda: switch(period=9, scope="tensor"), "`period` must be 1"),
    (lambda: GreedySwitch.sgd(momenta=[0.9]), "`momenta` must be at least 2 numbers"),
    (lambda: GreedySwitch.adam(betas=[0.9, 1.0]), "`betas` must be at least 2 numbers"),
])
def test_bad_arguments_are_refused_by_name(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_a_candidate_that_is_built_or_looks_ahead_is_refused():
    built = SGD()
    built.build(variables())
    with pytest.raises(ValueError, match="must not be built yet, got a SGD"):
        GreedySwitch([built, Adam()])
    with pytest.raises(ValueError, match="lookahead=False"):
        GreedySwitch([LearnedOpt(weights(lookahead=True)), Adam()])


def test_what_is_usual_goes_by_candidates_and_score():
    usual = [switch(), switch(score="cosine"), switch(holdout=False),
             GreedySwitch([Adam(), LearnedOpt("rule")]), GreedySwitch.sgd(), GreedySwitch.adam()]
    assert [(one.holdout, one.smoothing) for one in usual] == [
        (True, 0.995), (True, 0.9), (False, 0.9), (False, 0.9), (True, 0.9), (False, 0.0)]


# What it computes.


@pytest.mark.parametrize("make, settings", [
    (lambda: Adam(0.02, weight_decay=0.1), {}),
    (lambda: SGD(0.1, momentum=0.9, clipnorm=0.5), {"scope": "tensor", "score": "cosine"}),
    (lambda: Adam(0.02), {"period": 3, "trial": 1, "margin": 1e9}),
], ids=["usual", "tensor", "period"])
def test_a_choice_among_equals_is_that_optimizer_to_the_bit(make, settings):
    ours, theirs = variables(), variables()
    apply(GreedySwitch([make(), make()], guard=False, **settings), gradients(7), ours)
    apply(make(), gradients(7), theirs)
    assert_equal(values(ours), values(theirs))


# Of a single number, all cosines are alike.
WITHOUT_SCALAR = ((3, 2), (2,), (4,))


def by_hand(steps, score, holdout, smoothing, scope):
    """The smoothed scores, (K, U), and choices after each step, in NumPy: of SGD at two rates with
    momentum 0.9 and 0."""
    theta = values(variables(WITHOUT_SCALAR))
    momentum = [np.zeros_like(t) for t in theta]
    old, smoothed, choice, seen = None, 0.0, np.zeros(1 if scope == "model" else 3, int), []
    for grads in steps:
        momentum = [0.9 * m - 0.1 * g for m, g in zip(momentum, grads)]
        updates = [[-m for m in momentum], [0.3 * g for g in grads]]
        judged = old if holdout else updates
        if judged is not None:
            def total(a, b):
                dots = np.array([np.sum(x * y) for x, y in zip(a, b)])
                return dots.sum(keepdims=True) if scope == "model" else dots
            raw = np.stack([total(grads, one) for one in judged])
            if score == "cosine":
                raw = np.stack([total(grads, one) / np.sqrt(total(grads, grads) * total(one, one))
                                for one in judged])
            smoothed = smoothing * smoothed + (1 - smoothing) * raw
            choice = np.where(smoothed[1 - choice, np.arange(len(choice))]
                              > smoothed[choice, np.arange(len(choice))]
                              + 1e-3 * np.abs(smoothed[choice, np.arange(len(choice))]),
                              1 - choice, choice)
        old = updates
        theta = [t - updates[choice[0 if scope == "model" else k]][k]
                 for k, t in enumerate(theta)]
        seen.append((choice.copy(), theta))
    return smoothed, seen


@pytest.mark.parametrize("scope", ["model", "tensor"])
@pytest.mark.parametrize("score, holdout, smoothing", [
    ("power", True, 0.5), ("power", False, 0.0), ("cosine", True, 0.9), ("cosine", False, 0.0)])
def test_scores_and_choices_are_those_of_numpy(scope, score, holdout, smoothing):
    steps = gradients(8, WITHOUT_SCALAR)
    smoothed, seen = by_hand(steps, score, holdout, smoothing, scope)
    optimizer = GreedySwitch(
        [SGD(0.1, momentum=0.9), SGD(0.3)], scope=scope, score=score, holdout=holdout,
        smoothing=smoothing, margin=1e-3, guard=False)
    moved = variables(WITHOUT_SCALAR)
    choices = []
    for grads, (choice, theta) in zip(steps, seen):
        apply(optimizer, [grads], moved)
        assert optimizer.choices() == [optimizer.names[j] for j in choice]
        assert_close(values(moved), theta)
        choices.append(choice)
    assert len(np.unique(choices)) == 2 or not holdout
    np.testing.assert_allclose(
        optimizer.scores().reshape(2, -1), smoothed, rtol=1e-4, atol=1e-6)
    uses = np.stack([np.sum(np.array(choices) == j, axis=0) for j in range(2)])
    np.testing.assert_array_equal(optimizer.uses().reshape(2, -1), uses)


@pytest.mark.parametrize("make, expected", [
    # The sum of beta^k g over 3 steps of gradient 1, times sqrt(1 - beta^2).
    (lambda: GreedySwitch.sgd(1.0, (0.0, 0.5), holdout=False, smoothing=0.0),
     [1.0, 1.75 * 0.75**0.5]),
    # The same sum; and the gradient is divided by its root mean square, 1.
    (lambda: GreedySwitch.adam(1.0, (0.0, 0.5)), [1.0, 1.75 * 0.75**0.5]),
])
def test_momenta_are_scored_as_filters_of_one_norm(make, expected):
    optimizer = make()
    apply(optimizer, [[np.ones((), "float32")]] * 3, [keras.Variable(0.0)])
    np.testing.assert_allclose(optimizer.scores(), expected, rtol=1e-4)
    assert optimizer.choices() == [optimizer.names[1]]


def test_momenta_step_as_the_optimizer_at_that_momentum():
    settings = {"first": 0, "margin": 1e9, "guard": False, "weight_decay": 0.1}
    for make, alone in (
        (lambda: GreedySwitch.sgd(0.05, (0.9, 0.0), **settings),
         SGD(0.05, momentum=0.9, weight_decay=0.1)),
        (lambda: GreedySwitch.adam(0.05, (0.9, 0.0), **settings),
         Adam(0.05, beta_1=0.9, weight_decay=0.1)),
    ):
        ours, theirs = variables(), variables()
        apply(make(), gradients(2), ours)
        apply(alone, gradients(2), theirs)
        assert_close(values(ours), values(theirs), 1e-4)


def test_hysteresis_by_margin_and_hold():
    scores = ops.convert_to_tensor(np.array([[1.0], [1.4]], "float32"))
    yes, no = np.ones((2, 1), bool), np.array([[False], [True]])
    present = np.zeros(1, "int32")

    def chosen(eligible, may_change, margin):
        return int(numpy(scores_lib.choose(
            scores, ops.convert_to_tensor(present), ops.convert_to_tensor(eligible),
            ops.convert_to_tensor(np.array([may_change])), margin))[0])

    assert chosen(yes, True, 0.3) == 1
    assert chosen(yes, True, 0.5) == 0
    assert chosen(yes, False, 0.0) == 0
    assert chosen(no, False, 0.5) == 1
    assert chosen(np.zeros((2, 1), bool), True, 0.0) == 0
    held = GreedySwitch([SGD(0.1), SGD(0.2)], hold=3, holdout=False, smoothing=0.0)
    moved, names = [keras.Variable(0.0)], []
    for _ in range(5):
        apply(held, [[np.ones((), "float32")]], moved)
        names += held.choices()
    assert names == [held.names[0]] * 3 + [held.names[1]] * 2


def test_momentum_that_goes_against_the_gradient_for_long_is_reset_softly():
    kept, reset = (
        GreedySwitch([SGD(0.1, momentum=0.9), SGD(0.1)], first=0, margin=1e9, patience=2,
                     holdout=False, guard=False, soft_reset=share) for share in (1.0, 0.5))
    one = np.ones((), "float32")
    steps = [[g] for g in (50 * one, -one, -one, -one)]
    buffers = []
    for optimizer in (kept, reset):
        apply(optimizer, steps, [keras.Variable(0.0)])
        buffers.append(float(numpy(optimizer.candidates[0].momentums[0])))
    # Against the gradient at the last three steps: due after the second and the third of these.
    expected = -5.0
    for k, g in enumerate((-1, -1, -1)):
        expected = 0.9 * expected - 0.1 * g
        expected *= 0.5 if k >= 1 else 1
    assert buffers[1] == pytest.approx(expected, rel=1e-5)
    assert buffers[0] < 2 * buffers[1] < 0


def test_between_trials_only_the_chosen_one_is_computed():
    optimizer = GreedySwitch(
        [SGD(0.1, momentum=0.9), SGD(0.2, momentum=0.9)], period=4, trial=2)
    moved, buffers = variables(), []
    for grads in gradients(8):
        apply(optimizer, [grads], moved)
        other = 1 - optimizer.names.index(optimizer.choices()[0])
        buffers.append((other, numpy(optimizer.candidates[other].momentums[0])))
    for k in (2, 3, 6, 7):
        (other, new), (_, old) = buffers[k], buffers[k - 1]
        assert np.array_equal(new, old) == (buffers[k][0] == buffers[k - 1][0]), k
    assert not np.array_equal(buffers[4][1], buffers[3][1])
    steps = {int(numpy(one.iterations)) for one in (optimizer, *optimizer.candidates)}
    assert steps == {8}


# What it is for.


def compiled(optimizer, variables):
    """A function that takes one step with gradients, compiled where the backend can."""
    optimizer.build(variables)
    if keras.backend.backend() == "jax":
        import jax

        program = jax.jit(optimizer.stateless_apply)

        def step(grads):
            new = program([v.value for v in optimizer.variables], grads,
                          [v.value for v in variables])
            for kind, found in zip((variables, optimizer.variables), new):
                for variable, value in zip(kind, found):
                    variable.assign(value)

        return step

    def apply(grads):
        optimizer.apply(grads, variables)

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        apply = tf.function(apply)
    return lambda grads: apply([ops.convert_to_tensor(g) for g in grads])


def descend(optimizer, gradient, start, steps):
    variable = keras.Variable(np.asarray(start, "float32"))
    step = compiled(optimizer, [variable])
    for _ in range(steps):
        step([np.asarray(gradient(numpy(variable)), "float32")])
    return numpy(variable)


def test_each_of_two_is_best_at_one_phase_and_the_switch_beats_both():
    """A long slope, and at its end a valley: a long step never settles there, a short one never
    arrives. From some starts the long step jumps between places of one height, and is not seen to
    fail: the middle one of three starts counts."""

    def slope(x):
        return np.where(x > 1, 1, np.clip(8 * x, -8, 8))

    def loss(x):
        return np.where(x > 1, x + 3, np.where(x < -1, -8 * x - 4, 4 * x**2)).sum()

    def final(make):
        return np.median([loss(descend(make(), slope, [20.0, end], 200))
                          for end in (19.2, 20.7, 21.6)])

    assert final(lambda: SGD(0.5)) > 4 and final(lambda: SGD(0.05)) > 20
    assert final(lambda: GreedySwitch([SGD(0.5), SGD(0.05)])) < 0.01


@pytest.mark.parametrize("wild, scope", [
    (lambda: SGD(3.0), "model"), (lambda: SGD(1e6), "tensor"), (lambda: Adam(100.0), "model"),
    (lambda: SGD(1.0, momentum=0.99), "tensor")])
def test_one_that_diverges_takes_nobody_along_on_a_quadratic(wild, scope):
    curvature = np.array([1.0, 3.0, 0.2])
    optimizer = GreedySwitch([wild(), SGD(0.3)], scope=scope)
    x = descend(optimizer, lambda x: curvature * x, [1.0, -1.0, 2.0], 100)
    assert np.sum(curvature * x**2) < 0.3
    alone = descend(wild(), lambda x: curvature * x, [1.0, -1.0, 2.0], 20)
    assert not np.sum(curvature * alone**2) < 0.3


def test_a_score_is_lost_with_a_step_that_fails():
    """Of a candidate that was good for long, and then makes the loss rise."""
    optimizer, moved = GreedySwitch([SGD(0.1, momentum=0.9), SGD(0.1)]), [keras.Variable(0.0)]
    one = np.ones((), "float32")
    apply(optimizer, [[one]] * 5, moved)
    before = optimizer.scores()
    assert optimizer.choices() == [optimizer.names[0]] and min(before) > 0
    apply(optimizer, [[-20 * one]], moved)
    assert int(numpy(optimizer.undone_steps)) == 1
    np.testing.assert_array_equal(optimizer.scores(), [0, before[1]])


def test_after_steps_that_failed_one_ends_at_the_minimum_of_a_quadratic():
    """Both are too long. What one has learned is its own."""
    optimizer = GreedySwitch([SGD(3.0), SGD(4.0)])
    variable = keras.Variable(np.ones(1, "float32"))
    step, ends = compiled(optimizer, [variable]), []
    for _ in range(5):
        step([numpy(variable)])
        ends.append(float(numpy(variable)[0]))
    np.testing.assert_allclose(ends, [-2, 1, -2, 1, 0], atol=0.02)
    assert int(numpy(optimizer.undone_steps)) == 2


def test_failures_count_in_a_row():
    one = np.ones(1, "float32")
    optimizer, moved = GreedySwitch([SGD(0.1), SGD(0.1)], patience=1), [keras.Variable(one)]
    for grads, failures in ((one, 0), (-20 * one, 1), (one, 1), (-20 * one, 1), (one, 1)):
        apply(optimizer, [[grads]], moved)
        assert numpy(optimizer._failures).max() == failures
    apply(optimizer, [[one]] * 2, moved)
    assert sorted(numpy(optimizer._failures)[:, 0]) == [0, 1]


def test_the_minimum_along_a_failed_step():
    falls, rises = np.array([3.0, 1.0, 0.0], "float32"), np.array([6.0, 0.5, 0.0], "float32")
    found = scores_lib.share_to_minimum(ops.convert_to_tensor(falls), ops.convert_to_tensor(rises))
    np.testing.assert_allclose(numpy(found), [1 / 3, 0.5, 0.5], rtol=1e-6)


def test_one_that_diverges_takes_nobody_along_in_a_network():
    switch = GreedySwitch([SGD(1e3), Adam(0.01)])
    losses = fit(model(optimizer=switch), epochs=15)["loss"]
    assert max(losses) < 3 and losses[-1] < 0.3
    assert max(fit(model(optimizer=SGD(1e3)), epochs=2)["loss"]) > 100


def test_an_update_that_is_not_finite_is_never_taken():
    class Broken(SGD):
        def update_step(self, gradient, variable, learning_rate):
            self.assign(variable, gradient * float("nan"))

        def _backend_update_step(self, grads, trainable_variables, learning_rate):
            for gradient, variable in zip(grads, trainable_variables):
                self.update_step(gradient, variable, learning_rate)

    ours, theirs = variables(), variables()
    optimizer = GreedySwitch([Broken(0.1), SGD(0.1)], guard=False)
    apply(optimizer, gradients(4), ours)
    apply(SGD(0.1), gradients(4), theirs)
    assert optimizer.uses().tolist() == [0, 4]
    assert_equal(values(ours), values(theirs))


@pytest.mark.parametrize("guard", [True, False])
def test_a_gradient_that_is_not_finite_changes_no_choice(guard):
    optimizer, moved = switch(guard=guard, weight_decay=0.1), variables()
    apply(optimizer, gradients(3), moved)
    before, state = values(moved), optimizer.scores()
    uses = optimizer.uses()
    bad = [g * np.float32("nan") for g in gradients(1)[0]]
    apply(optimizer, [bad], moved)
    assert int(numpy(optimizer.skipped_steps)) == 1
    np.testing.assert_array_equal(optimizer.scores(), state)
    np.testing.assert_array_equal(optimizer.uses(), uses)
    if not guard:
        assert_equal(values(moved), before)
    else:
        # Perhaps it was the last step that led there, so that is taken back, but no other.
        assert int(numpy(optimizer.undone_steps)) == 1
        again = values(moved)
        apply(optimizer, [bad], moved)
        assert_equal(values(moved), again)
    apply(optimizer, gradients(3), moved)
    assert all(np.isfinite(v).all() for v in values(moved))


@pytest.mark.jax_only
def test_momenta_on_a_noisy_quadratic():
    """Without noise better than any fixed momentum; with noise, small momenta are chosen."""
    import jax

    curvature = np.logspace(-2, 0, 50).astype("float32")
    momenta = (0.0, 0.5, 0.9, 0.99)

    def run(make, noise):
        optimizer, variable = make(), keras.Variable(np.ones(50, "float32"))
        optimizer.build([variable])
        draws = np.random.default_rng(0).normal(size=(2000, 50)).astype("float32")

        def step(carry, draw):
            x, state = carry
            (x,), state = optimizer.stateless_apply(state, [curvature * x + noise * draw], [x])
            return (x, state), None

        (x, state), _ = jax.jit(lambda c, d: jax.lax.scan(step, c, d))(
            (variable.value, [v.value for v in optimizer.variables]), draws)
        for own, value in zip(optimizer.variables, state):
            own.assign(value)
        return float(np.sum(curvature * np.square(x)) / 2), optimizer

    def chosen(noise, **settings):
        return run(lambda: GreedySwitch.sgd(
            0.03, momenta, holdout=False, smoothing=0.0, **settings), noise)

    fixed = [run(lambda m=m: SGD(0.03, momentum=m), 0.0)[0] for m in momenta]
    exact, plain = chosen(0.0, guard=False, soft_reset=1.0)
    assert exact < min(fixed) / 10
    noisy, _ = chosen(0.1, guard=False)
    assert noisy < 2 * 0.012
    uses = [one.uses() / 2000 for one in (
        plain, chosen(0.1, guard=False)[1], chosen(1.0, guard=False)[1])]
    small = [share[:2].sum() for share in uses]
    assert small[0] < small[1] < small[2] and small[2] > 0.8


# What every Keras optimizer must bear.


@pytest.mark.parametrize("settings", [
    {"scope": "tensor", "score": "cosine", "holdout": False},
    {"gradient_accumulation_steps": 3, "weight_decay": 0.01, "use_ema": True, "ema_momentum": 0.9,
     "ema_overwrite_frequency": 3, "global_clipnorm": 1.0},
    {"period": 5, "trial": 2, "learning_rate": 0.5},
], ids=["tensor", "accumulation", "period"])
def test_a_loaded_model_resumes_to_the_same_numbers(tmp_path, settings):
    network = linear(switch(**settings))
    x, y = data()

    def train(one, batches):
        for k in batches:
            one.train_on_batch(x[8 * (k % 4):][:8], y[8 * (k % 4):][:8])

    train(network, range(5))
    network.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert_equal(values(loaded.optimizer.variables), values(network.optimizer.variables))
    train(network, range(5, 9))
    train(loaded, range(5, 9))
    assert_equal(values(loaded.weights), values(network.weights))
    assert_equal(values(loaded.optimizer.variables), values(network.optimizer.variables))


def test_a_learned_candidate_learns_and_resumes(tmp_path):
    network = linear(GreedySwitch([Adam(0.01), LearnedOpt("rule", seed=1)], holdout=True))
    losses = fit(network, epochs=8)["loss"]
    assert losses[-1] < 0.6 * losses[0] and min(network.optimizer.uses()) > 0
    network.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    fit(network)
    fit(loaded)
    assert_equal(values(loaded.weights), values(network.weights))


def test_the_config_goes_through_json():
    settings = {
        "scope": "tensor", "score": "cosine", "holdout": False, "smoothing": 0.5, "margin": 0.1,
        "hold": 3, "patience": 4, "soft_reset": 0.8, "guard": False, "trial": 7,
        "first": 1, "learning_rate": 0.5, "weight_decay": 0.01, "clipnorm": 1.0}
    first = switch(**settings)
    again = keras.optimizers.deserialize(
        json.loads(json.dumps(keras.optimizers.serialize(first))))
    assert type(again) is GreedySwitch
    assert again.get_config() == first.get_config()
    assert {name: again.get_config()[name] for name in settings} == settings


def test_compiled_steps_are_the_eager_ones():
    networks = []
    for eager in (True, False):
        networks.append(linear(switch(period=4, trial=2), run_eagerly=eager))
        fit(networks[-1], epochs=2)
    assert_close(values(networks[0].weights), values(networks[1].weights), 1e-4)
    assert networks[0].optimizer.choices() == networks[1].optimizer.choices()


def test_it_trains_in_half_precision_with_a_loss_scale():
    with dtype_policy("mixed_float16"):
        network = linear(keras.optimizers.LossScaleOptimizer(switch(), 8.0))
        losses = fit(network, epochs=5)["loss"]
    assert losses[-1] < 0.9 * losses[0]


def test_arguments_of_keras_mean_what_they_mean():
    zero = [np.zeros_like(v) for v in values(variables())]
    moved = variables()
    apply(switch(weight_decay=0.5, learning_rate=0.1, guard=False), [zero], moved)
    assert_close(values(moved), [0.95 * v for v in values(variables())])

    # Clipping: candidates see the clipped gradients.
    clipped, expected = variables(), variables()
    grads = gradients(3)
    apply(switch(clipvalue=0.1), grads, clipped)
    apply(switch(), [[np.clip(g, -0.1, 0.1) for g in step] for step in grads], expected)
    assert_close(values(clipped), values(expected))

    # Accumulation: one step with the mean.
    accumulated, expected = variables(), variables()
    apply(switch(gradient_accumulation_steps=2), grads[:2], accumulated)
    apply(switch(), [[(a + b) / 2 for a, b in zip(*grads[:2])]], expected)
    assert_close(values(accumulated), values(expected))

    # The learning rate multiplies the step, and a schedule is one.
    whole, tenth = variables(), variables()
    apply(switch(guard=False), grads[:1], whole)
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    apply(switch(guard=False, learning_rate=schedule), grads[:1], tenth)
    start = values(variables())
    assert_close([10 * (a - b) for a, b in zip(values(tenth), start)],
                 [a - b for a, b in zip(values(whole), start)], 1e-4)


def test_the_moving_average_is_of_the_variables():
    optimizer, moved = switch(use_ema=True, ema_momentum=0.9), variables()
    expected = None
    for grads in gradients(4):
        apply(optimizer, [grads], moved)
        now = values(moved)
        expected = now if expected is None else [
            0.9 * a + 0.1 * b for a, b in zip(expected, now)]
    optimizer.finalize_variable_values(moved)
    assert_close(values(moved), expected)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_what_has_no_gradient_stays(scope):
    optimizer, moved = switch(scope=scope, guard=False), variables()
    steps = [[g[0], None, g[2]] for g in gradients(4)]
    before = values(moved)
    apply(optimizer, steps, moved)
    np.testing.assert_array_equal(values(moved)[1], before[1])
    assert np.abs(values(moved)[0] - before[0]).max() > 0
    if scope == "tensor":
        assert optimizer.uses().sum(axis=0).tolist() == [4, 0, 4]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow")
def test_several_replicas_of_tensorflow_are_refused():
    import tensorflow as tf

    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope(), pytest.raises(
            ValueError, match=r"one replica under tf.distribute, got .* with 2"):
        switch().build(variables())


def test_choices_go_to_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    network = linear(switch())
    fit(network, epochs=3, callbacks=[SwitchDynamics(tmp_path, every=4)])
    events = EventAccumulator(str(tmp_path)).Reload()
    names = network.optimizer.names
    shares = np.array([[e.value for e in events.Scalars(f"switch share/{name}")]
                       for name in names])
    assert [e.step for e in events.Scalars(f"switch score/{names[0]}")] == [4, 8, 12]
    np.testing.assert_allclose(shares.sum(axis=0), 1, rtol=1e-6)
    np.testing.assert_allclose(4 * shares.sum(axis=1), network.optimizer.uses())
    last = int(events.Scalars("switch choice/overall")[-1].value)
    assert [names[last]] == network.optimizer.choices()
    assert "switch guard/undone steps" in events.Tags()["scalars"]


def test_the_callback_needs_a_switch(tmp_path):
    with pytest.raises(ValueError, match="`every` must be an integer of at least 1, got 0"):
        SwitchDynamics(tmp_path, every=0)
    with pytest.raises(ValueError, match="compiled with GreedySwitch, got SGD"):
        fit(model(optimizer=SGD()), callbacks=[SwitchDynamics(tmp_path)])


@pytest.mark.jax_only
def test_four_jax_devices_choose_and_train_as_one():
    from tests.hrnn_opt.test_sharding import finish, start

    flags = f"{quickly.FLAGS} --xla_force_host_platform_device_count=4"
    report = json.loads(finish(start("distributed_switch.py", XLA_FLAGS=flags)))
    assert report["deviation"] < 1e-4 and report["same"]
    # The state is where the variable is: half of it on each device.
    assert report["shares"] == [0.5, 0.5]
