"""Every kind of network is meta-trained by every estimator, and a broken run goes on to the bit."""

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


@pytest.fixture(autouse=True)
def _compiled_quickly(monkeypatch):
    compiled = estimators.Estimator._compiled
    monkeypatch.setattr(
        estimators.Estimator, "_compiled", lambda self, function, **options: compiled(
            self, function,
            **{"compiler_options": {"xla_backend_optimization_level": 0}, **options}))


@pytest.mark.parametrize("form", FORMS)
def test_a_broken_run_ends_in_the_same_numbers(form, tmp_path):
    # Truncated backpropagation and persistent evolution strategies, both with runs that go on.
    trainer = Trainer(config_of(form, "mix"))
    start = {name: np.array(value) for name, value in trainer.meta.items()}
    for _ in range(2):
        trainer.run_step()
    trainer.save(tmp_path)
    for _ in range(2):
        trainer.run_step()
    assert all(np.isfinite(value).all() for value in trainer.meta.values())
    assert any((value != start[name]).any() for name, value in trainer.meta.items())

    resumed = Trainer(trainer.config)
    # Their programs, which need not be compiled again, and nothing of what they have run.
    resumed.estimators = trainer.estimators
    assert resumed.resume(tmp_path) and resumed.step == 2
    for _ in range(2):
        resumed.run_step()
    jax.tree.map(np.testing.assert_array_equal, resumed._tree(), trainer._tree())


@pytest.mark.parametrize("estimator", [name for name in ESTIMATORS if name != "mix"])
@pytest.mark.parametrize("form", FORMS)
def test_every_estimator_takes_every_kind(form, estimator):
    trainer = Trainer(config_of(form, estimator))
    made = trainer.estimators[0]
    meta = {name: jax.ShapeDtypeStruct(v.shape, v.dtype) for name, v in trainer.meta.items()}
    _, state = made.shapes(meta)
    estimate, after = jax.eval_shape(
        lambda meta, state, key: made.estimate(meta, state, key, 1), meta, state,
        jax.random.key(0))
    assert {n: g.shape[1:] for n, g in estimate.gradients.items()} == {
        n: v.shape for n, v in meta.items()}
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state)
