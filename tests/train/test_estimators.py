"""The estimators, on families whose gradients are known."""

import mmap
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import problems
from hrnn_opt import Direction, HierarchicalRNN, HierarchicalRNNConfig, Seen
from train import estimators, lengths, machine
from train.config import TrainConfig
from train.meta_optimizer import clean
from train.programs import Program
from train.tasks import Family, Place, Tasks
from train.trainer import Trainer


def _tasks(models: int, state: jax.Array, horizon: int) -> Tasks:
    zeros = jnp.zeros((models,), jnp.int32)
    return Tasks(
        key=jnp.zeros((models, 2), jnp.uint32), spec=zeros, step=zeros,
        horizon=jnp.full((models,), horizon, jnp.int32), lost=jnp.zeros((models,), bool),
        learning_rate=jnp.ones(models), first_objective=jnp.ones(models), instance=(),
        place=Place(state, None), state={})


class _Toy:
    """A family with one meta-parameter `x`, in place of inner training."""

    def __init__(self, config: TrainConfig, horizon: int) -> None:
        self.config = config
        self.horizon = horizon
        self.layout = SimpleNamespace(parameters=1)

    def draw(self, key, first=False):
        return _tasks(self.config.models, jnp.zeros(self.config.models), self.horizon)

    ended = staticmethod(Family.ended)

    def renew(self, tasks, fresh):
        ended = self.ended(tasks)
        return jax.tree.map(lambda new, old: jnp.where(
            ended.reshape(-1, *(1,) * (new.ndim - 1)), new, old), fresh, tasks)


class _Cosine(_Toy):
    """The meta-objective cos(x): smoothed with N(0, s^2), its slope is -exp(-s^2 / 2) sin(x)."""

    def unroll(self, meta, tasks, length):
        return jnp.broadcast_to(jnp.cos(meta["x"]), tasks.step.shape), tasks._replace(
            step=tasks.step + length)


class _Walk(_Toy):
    """s <- s + x each truncation, with meta-objective s^2 after it.

    Over T truncations the mean is x^2 mean(t^2), of slope 2 x mean(t^2); truncated at each step,
    with s held fixed before it, backpropagation gives 2 x mean(t) only.
    """

    def unroll(self, meta, tasks, length):
        state = tasks.place.location + meta["x"]
        return state**2, tasks._replace(step=tasks.step + length, place=Place(state, None))

    def advance(self, meta, tasks, length):
        return self.unroll(meta, tasks, length)[1]


def _mean_gradient(estimator, meta, truncations, seed=0):
    state = estimator.init(jax.random.key(seed), meta)
    gradients = []
    for key in jax.random.split(jax.random.key(seed + 1), truncations):
        if estimator.ended(state):
            state = estimator.renew(state, key)
        estimate, state = estimator.estimate(meta, state, key, 1)
        gradients.append(estimate.gradients["x"])
    return np.asarray(gradients)


def test_es_converges_to_the_slope_of_the_smoothed_objective():
    config = TrainConfig(estimator="es", perturbation=1.0, members=2000, models=1, unroll=1)
    gradients = _mean_gradient(
        estimators.ES(_Cosine(config, 1), config), {"x": jnp.float32(0.7)}, 20)
    exact = -np.exp(-0.5) * np.sin(0.7)
    error = gradients.std() / np.sqrt(gradients.size)
    assert abs(gradients.mean() - exact) < 4 * error
    # The slope without smoothing is far outside of what the estimate allows.
    assert abs(gradients.mean() + np.sin(0.7)) > 20 * error


@pytest.mark.parametrize("kind", [estimators.ES, estimators.PES, estimators.NRES])
def test_perturbations_are_in_units_and_slopes_are_not(kind):
    same = {"models": 1, "members": 5, "unroll": 1}
    one = TrainConfig(perturbation=0.5, **same)
    other = TrainConfig(perturbation=0.1, units={"y": 3.0, "x|z": 5.0}, **same)
    meta = {"x": jnp.float32(0.7)}
    np.testing.assert_allclose(*(
        _mean_gradient(kind(_Cosine(config, 1), config), meta, 2) for config in (one, other)),
        rtol=1e-5)


@pytest.mark.parametrize("horizon", [1, 2, 5])
@pytest.mark.parametrize("kind", [estimators.PES, estimators.NRES])
def test_evolution_is_unbiased_across_truncations_where_tbptt_is_not(kind, horizon):
    config = TrainConfig(estimator="pes", perturbation=0.1, members=4000, models=2, unroll=1)
    meta = {"x": jnp.float32(0.7)}
    t = np.arange(1, horizon + 1)
    exact, truncated = 2 * 0.7 * np.mean(t**2), 2 * 0.7 * np.mean(t)

    found = _mean_gradient(kind(_Walk(config, horizon), config), meta, 10 * horizon)
    # Members are independent, the truncations of one are not.
    members = found.mean(axis=0)
    error = members.std() / np.sqrt(members.size)
    assert abs(members.mean() - exact) < 4 * error
    assert error < 0.02 * exact

    tbptt = _mean_gradient(estimators.TBPTT(_Walk(config, horizon), config), meta, 10 * horizon)
    assert tbptt.mean() == pytest.approx(truncated, rel=1e-5)
    if horizon > 1:
        assert abs(truncated - exact) > 10 * error


@pytest.mark.parametrize("horizon", [1, 4])
def test_full_is_the_exact_gradient_of_whole_runs(horizon):
    config = TrainConfig(estimator="full", members=2, models=2, unroll=1, run_range=(1, 9))
    full, meta = estimators.Full(_Walk(config, 99), config), {"x": jnp.float32(0.7)}
    t = np.arange(1, horizon + 1)
    for key in (0, 1):
        state = full.init(jax.random.key(key), meta)
        estimate, after = full.estimate(meta, state, jax.random.key(0), horizon)
        np.testing.assert_allclose(
            estimate.gradients["x"], 2 * 0.7 * np.mean(t**2), rtol=1e-5)
        # All end with the last segment, whatever length was drawn for them.
        assert np.all(Family.ended(after)) and np.all(after.step == horizon)


def test_runs_keep_their_noise_until_they_end():
    config = TrainConfig(estimator="nres", perturbation=0.1, members=3, models=2, unroll=1)
    nres, meta = estimators.NRES(_Walk(config, 2), config), {"x": jnp.float32(0.7)}
    state, changes = nres.init(jax.random.key(0), meta), []
    for key in jax.random.split(jax.random.key(1), 4):
        if nres.ended(state):
            state = nres.renew(state, key)
        _, state = nres.estimate(meta, state, key, 1)
        changes.append(np.array(state.change["x"]))
    np.testing.assert_array_equal(changes[0], changes[1])
    np.testing.assert_array_equal(changes[2], changes[3])
    assert np.all(changes[0] != changes[2]) and len(set(changes[0])) == 3


def test_lengths_of_whole_runs_are_drawn_from_their_range():
    config = TrainConfig(estimator="full", unroll=50, run_range=(400, 1600))
    drawn = np.array([lengths.segments(config, step) for step in range(2000)])
    assert drawn.min() == 8 and drawn.max() == 32
    # Log-uniform: half of them are below the geometric mean.
    assert np.mean(drawn < 16) == pytest.approx(0.5, abs=0.05)


def test_members_out_of_bounds_are_left_out_and_counted():
    config = TrainConfig(norm_limit=10.0, clip_member=0.0)
    gradients = {"a": jnp.array([[3.0, 4.0], [600.0, 0.0], [np.nan, 0.0], [3.0, -4.0]])}
    cleaned = clean(gradients, config)
    np.testing.assert_allclose(cleaned.gradient["a"], [3.0, 0.0], rtol=1e-6)
    assert float(cleaned.left_out) == 0.5
    # Two of norm 5 whose mean has norm 3.
    assert float(cleaned.signal) == pytest.approx(0.6)
    everything = clean({"a": 100 * gradients["a"]}, config)
    assert float(everything.left_out) == 1 and not np.any(everything.gradient["a"])


def test_norms_are_in_units():
    config = TrainConfig(clip_member=5.0, units={"a": 0.01})
    cleaned = clean({"a": jnp.array([[300.0, 400.0]]), "b": jnp.array([[12.0]])}, config)
    np.testing.assert_allclose(cleaned.norms, [13.0], rtol=1e-6)
    np.testing.assert_allclose(cleaned.gradient["a"], np.array([3.0, 4.0]) * 5 / 13, rtol=1e-6)


def test_mix_weighs_by_the_other_ones_variance():
    a = jnp.array([[1.0, 0.0], [3.0, 0.0]])  # variances 1 and 0
    b = jnp.array([[10.0, 5.0], [16.0, 9.0]])  # variances 9 and 4
    mixed = estimators.inverse_variance_mean(a, b)
    np.testing.assert_allclose(mixed[:, 0], 0.9 * a[:, 0] + 0.1 * b[:, 0], rtol=1e-6)
    np.testing.assert_allclose(mixed[:, 1], a[:, 1], atol=1e-6)


def test_tbptt_over_one_truncation_is_the_exact_gradient():
    """Against plain Python: no scan, no rematerialisation, no segments, no members, no models side
    by side. With lookahead, and log(f / f_0)."""
    steps, segments = 4, 2
    network_config = HierarchicalRNNConfig(
        parameter_units=3, tensor_units=4, global_units=2, time_scales=2, lookahead=True)
    config = TrainConfig(
        members=2, models=2, unroll=steps // segments,
        network=network_config.to_dict(), initial_learning_rate=(1e-2, 1e-1))
    network = HierarchicalRNN(network_config, seed=3)
    problem = problems.SumOf([problems.Quadratic(3), problems.Quadratic(2, noise_stdev=0.3)])
    family = Family([problem], network, config)
    estimator = estimators.TBPTT(family, config)
    meta = {name: variable.value for name, variable in network.meta_parameters.items()}
    state = estimator.init(jax.random.key(0), meta)
    # The runs of this estimate are as drawn: none has ended.
    state = state._replace(horizon=jnp.full_like(state.horizon, 10 * steps))
    kept = jax.tree.map(jnp.copy, state)
    estimate, _ = estimator.estimate(meta, state, jax.random.key(1), segments)

    def run(meta, tasks, m):
        instance = jax.tree.map(lambda leaf: leaf[m], tasks.instance)
        key = jax.random.fold_in(jax.random.wrap_key_data(tasks.key[m]), 2)
        true = location = tasks.place.location[m]
        first = problem.objective(tuple(family.layout.unflatten(true)), instance)
        inner = network.stateless_init_state(
            meta, family.layout, log_rates=tasks.state["log_learning_rate"][m])
        terms = []
        for n in range(steps):
            batch = jax.tree.map(lambda leaf: leaf[0], problem.batches(key, n, 1, instance))
            gradient = problem.gradient(tuple(family.layout.unflatten(location)), instance, batch)
            inner, step = network.stateless_step(
                meta, family.layout, inner, Seen(family.layout.flatten(gradient)))
            location = true - step.ahead
            true = true - step.update
            f = problem.objective(tuple(family.layout.unflatten(true)), instance) / (first + 1e-6)
            terms.append(jnp.log(f + 1e-6))
        return sum(terms) / steps

    # Compiled once, for any of the models.
    one = jax.jit(jax.value_and_grad(run))

    def exact(meta, tasks):
        each = [one(meta, tasks, m) for m in range(config.models)]
        return jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *each)

    for g in range(config.members):
        tasks = jax.tree.map(lambda leaf: leaf[g], kept)  # noqa: B023
        losses, gradient = exact(meta, tasks)
        assert float(jnp.mean(estimate.losses[g])) == pytest.approx(float(losses), rel=2e-5)
        for name, expected in gradient.items():
            scale = float(jnp.abs(expected).max()) + 1e-6
            np.testing.assert_allclose(
                estimate.gradients[name][g], expected, atol=2e-4 * scale, err_msg=name)


@pytest.mark.parametrize("objective, expected", [
    ("plain", [0.5, 2.0, 1e9]), ("log", np.log([0.501, 2.001, 1e9]))])
def test_the_meta_objective_is_of_shares_of_the_start(objective, expected):
    config = TrainConfig(objective=objective, objective_least=1e-3)
    family = Family([problems.Quadratic(2)], Direction(), config)
    np.testing.assert_allclose(family._meta_objective(
        jnp.array([2.0, 8.0, jnp.nan]), jnp.full(3, 4.0)), expected, rtol=1e-5)


@pytest.mark.parametrize("estimator", ["tbptt", "full", "es", "pes", "nres"])
def test_only_what_is_trainable_moves_and_in_its_unit(estimator):
    trainer = Trainer(TrainConfig(
        suite="bowl", network={"kind": "direction"}, trainable="average.*",
        units={"average.*": 3.0}, estimator=estimator, members=1, models=1, families=1, unroll=2,
        run_range=(2, 2), warmup=0, meta_learning_rate=1e-3, meta_schedule="constant"))
    before = {name: np.array(value) for name, value in trainer.meta.items()}
    trainer.run_step()
    moved = {name: abs(float(value - before[name])) for name, value in trainer.meta.items()}
    # Adam's first step is of the rate's size.
    assert moved == pytest.approx({**dict.fromkeys(before, 0.0), "average_logit": 3e-3}, rel=1e-2)
    for name, total in getattr(trainer.states[0], "total", {}).items():
        assert np.any(total) == (name == "average_logit"), name


def test_programs_are_unloaded_and_come_back():
    config = TrainConfig(estimator="pes", members=2, models=1, unroll=1)
    pes, meta = estimators.PES(_Walk(config, 2), config), {"x": jnp.float32(0.7)}
    first = _mean_gradient(pes, meta, 4)
    programs = [p._jitted for p in vars(pes).values() if isinstance(p, Program)] + [pes.ended]
    assert sum(p._cache_size() for p in programs) >= 4
    pes.unload()
    assert sum(p._cache_size() for p in programs) == 0
    np.testing.assert_array_equal(_mean_gradient(pes, meta, 4), first)


def test_the_programs_used_longest_ago_make_room(monkeypatch):
    trainer = Trainer(TrainConfig(suite="paper"))
    unloaded = []
    trainer.estimators = [
        SimpleNamespace(unload=lambda i=i: unloaded.append(i)) for i in range(5)]
    used = iter([0.5, 0.5, 0.9, 0.9, 0.1])
    monkeypatch.setattr("train.machine.memory_maps_used", lambda: next(used))
    for index in (3, 0, 3, 4, 1):
        trainer._make_room(index)
    # At the fourth there was room for it; the fifth took that of two.
    assert unloaded == [0, 3] and trainer._loaded == [4, 1]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux says how many there may be")
def test_memory_maps_are_counted(tmp_path):
    most = int(Path("/proc/sys/vm/max_map_count").read_text())
    (tmp_path / "page").write_bytes(bytes(mmap.PAGESIZE))
    before = machine.memory_maps_used()
    with (tmp_path / "page").open("r+b") as file:
        # Of the same page: the system does not join them.
        maps = [mmap.mmap(file.fileno(), mmap.PAGESIZE) for _ in range(500)]
    assert most * (machine.memory_maps_used() - before) == pytest.approx(500, abs=50)
    for each in maps:
        each.close()
