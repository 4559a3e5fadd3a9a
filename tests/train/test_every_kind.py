"""Every kind of network is meta-trained by every estimator, and a broken run goes on to the bit."""

import dataclasses

import jax
import numpy as np
import pytest

from hrnn_opt.registry import kinds
from train import estimators
from train.config import ESTIMATORS, TrainConfig
from train.trainer import Trainer

# Few numbers, where a kind has a say in how many.
SMALL = {
    "hrnn": {"parameter_units": 2, "tensor_units": 2, "global_units": 2, "time_scales": 2},
    "equivariant": {"parameter_units": 2, "tensor_units": 2, "global_units": 2, "time_scales": 2},
    "coordinatewise_lstm": {"units": 2}, "small_fc": {"units": 2}, "celo2": {"units": 2},
    "velo": {"units": 2, "bank": 2}, "celo": {"units": 2},
}
FORMS = {
    **{kind: {"kind": kind, **SMALL.get(kind, {})} for kind in kinds()},
    "celo with Adam": {"kind": "celo", "direction": "adam", "units": 2},
    "small_fc in mu": {"kind": "small_fc", "units": 2, "rules": [["mu", {}]]},
}


def config_of(form: str, estimator: str) -> TrainConfig:
    return TrainConfig(
        suite="bowl", network=FORMS[form], estimator=estimator, members=2, models=1, families=1,
        unroll=1, run_range=(1, 3), warmup=0, meta_schedule="constant")


def trainer_of(form: str) -> Trainer:
    # Persistent evolution strategies keep most: both sides of a run, and perturbations.
    return Trainer(config_of(form, "pes"))


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_holds_all_of_a_run(form, tmp_path):
    trainer, rng = trainer_of(form), np.random.default_rng(0)

    def drawn(like):
        if jax.dtypes.issubdtype(like.dtype, np.floating):
            return rng.normal(size=like.shape).astype(like.dtype)
        return rng.integers(0, 2, size=like.shape).astype(like.dtype)

    trainer.states = [e.shapes(trainer.meta)[1] for e in trainer.estimators]
    trainer.meta, trainer.average, trainer.optimizer_state, trainer.states = jax.tree.map(
        drawn, (trainer.meta, trainer.average, trainer.optimizer_state, trainer.states))
    trainer.step = 7
    trainer.save(tmp_path)
    resumed = trainer_of(form)
    assert resumed.resume(tmp_path) and resumed.step == 7
    assert set(resumed.states[0].up.state) == set(resumed.network.fields)

    def same(ours, theirs):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)

    jax.tree.map(same, resumed._tree(), trainer._tree())


def test_a_broken_run_ends_in_the_same_numbers(tmp_path):
    """Of the kind with most in its state; that of a killed process is in `test_checkpoints.py`."""
    trainer = trainer_of("velo")
    start = {name: np.array(value) for name, value in trainer.meta.items()}
    for _ in range(2):
        trainer.run_step()
    trainer.save(tmp_path)
    for _ in range(2):
        trainer.run_step()
    assert all(np.isfinite(value).all() for value in trainer.meta.values())
    assert any((value != start[name]).any() for name, value in trainer.meta.items())

    resumed = trainer_of("velo")
    # Their programs, which need not be compiled again, and nothing of what they have run.
    resumed.estimators = trainer.estimators
    assert resumed.resume(tmp_path) and resumed.step == 2
    for _ in range(2):
        resumed.run_step()
    jax.tree.map(np.testing.assert_array_equal, resumed._tree(), trainer._tree())


@pytest.mark.parametrize("form", FORMS)
def test_every_estimator_takes_every_kind(form):
    """Traced as it would be run, with gradients for all meta-parameters and the state as it was."""
    trainer = trainer_of(form)
    family, meta = trainer.families[0], trainer.meta
    # What unrolling is traced to serves all of them.
    family.unroll = jax.jit(family.unroll, static_argnums=2)
    for name in ESTIMATORS:
        made = estimators.make(family, dataclasses.replace(trainer.config, estimator=name))
        _, state = made.shapes(meta)
        estimate, after = jax.eval_shape(
            lambda meta, state, key, made=made: made.estimate(meta, state, key, 1), meta, state,
            jax.random.key(0))
        assert {n: g.shape[1:] for n, g in estimate.gradients.items()} == {
            n: v.shape for n, v in meta.items()}
        same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), after, state)
        assert all(jax.tree.leaves(same)), name
