"""What a run writes down: `log.jsonl`, and events that TensorBoard itself reads back."""

import json
import time

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from hrnn_opt.training.events import EventWriter
from train import log, progress, run, trainer
from train.config import TrainConfig

NETWORK = dict(parameter_units=2, tensor_units=2, global_units=0, time_scales=2)
SCORE = {"score": -1.5, "curve": -1.0, "end": -2.0, "ends": [-2.0]}


def events(folder):
    """By tag, [(step, value)]: a number, or a histogram's (buckets, 3) rows low, high, count."""
    accumulator = EventAccumulator(str(folder), tensor_size_guidance={"histograms": 0})
    accumulator.Reload()
    found = {
        tag: [(e.step, tensor_util.make_ndarray(e.tensor_proto)) for e in accumulator.Tensors(tag)]
        for tag in accumulator.Tags()["tensors"]}
    plugins = {
        tag: accumulator.SummaryMetadata(tag).plugin_data.plugin_name for tag in found}
    return found, plugins


def test_tensorboard_reads_histograms(tmp_path):
    numbers = np.random.default_rng(0).normal(size=(40, 25)).astype("float32")
    writer = EventWriter(tmp_path)
    writer.write(3, {"loss": 0.5}, {
        "normal": numbers, "one value": np.full(7, 0.25), "nothing": np.array([np.nan, np.inf]),
        "some": np.array([1.0, np.nan, 2.0, -np.inf, 2.0])})
    writer.close()
    found, plugins = events(tmp_path)
    assert plugins == {"loss": "scalars", **dict.fromkeys(
        ("normal", "one value", "some"), "histograms")}
    ((step, rows),) = found["normal"]
    assert step == 3
    assert (rows[0, 0], rows[-1, 1]) == pytest.approx((numbers.min(), numbers.max()), rel=1e-6)
    np.testing.assert_allclose(rows[1:, 0], rows[:-1, 1])
    for low, high, count in rows[1:-1]:
        assert count == pytest.approx(np.sum((numbers >= low) & (numbers < high)), abs=1)
    assert rows[:, 2].sum() == numbers.size
    ((_, rows),) = found["one value"]
    np.testing.assert_allclose(rows, [[0.25, 0.25, 7]])
    ((_, rows),) = found["some"]
    assert rows[:, 2].sum() == 3 and (rows[0, 0], rows[-1, 1]) == (1, 2)


def test_phases_are_thirds():
    losses = jnp.array([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    progress = jnp.array([[0.0, 0.33, 0.34], [0.66, 0.67, 1.2]])
    np.testing.assert_allclose(trainer.by_phase(losses, progress), [1.5, 6.0, 24.0])
    phases = trainer.by_phase(losses, jnp.full((2, 3), 0.9))
    np.testing.assert_array_equal(np.isnan(phases), [True, True, False])


def _config(estimator, **changes):
    return TrainConfig(**{
        "suite": "bowl", "network": NETWORK, "estimator": estimator, "members": 2, "models": 3,
        "families": 1, "unroll": 4, "run_range": (24, 24), "steps": 3, **changes})


@pytest.mark.parametrize("estimator", ["tbptt", "mix"])
def test_a_run_leaves_scalars_and_histograms(tmp_path, monkeypatch, estimator):
    monkeypatch.setattr(
        run.validation, "Validator", lambda config, network: lambda meta: dict(SCORE))
    done = run.run(_config(estimator), tmp_path, resume=False, until=lambda: False,
                   validate_every=2)
    (name,) = {name for record in log.read(tmp_path) for name in record["losses"]}
    found, plugins = events(tmp_path)
    records = log.read(tmp_path)
    assert [record["step"] for record in records] == [1, 2, 3]
    # The very first truncation begins at the start of every run.
    assert list(records[0]["phases"][name]) == ["early"]
    for record in records:
        losses, phases = record["losses"][name], record["phases"][name]
        assert min(phases.values()) <= losses + 1e-6 and losses - 1e-6 <= max(phases.values())
        for phase, loss in phases.items():
            for tag in (f"meta-objective {phase}/{name}", f"meta-objective by phase/{phase}"):
                assert dict(found[tag])[record["step"]] == pytest.approx(loss)
        for tag, value in {
            f"meta-objective/{name}": losses, "meta-gradient/norm": record["gradient_norm"],
            "meta-gradient/share of members clipped": record["clipped"],
        }.items():
            assert dict(found[tag])[record["step"]] == pytest.approx(value)
    assert [step for step, _ in found["validation/score"]] == [2]

    histograms = {tag for tag, plugin in plugins.items() if plugin == "histograms"}
    assert histograms == {
        f"{quantity}/{name}" for quantity in ("log learning rate", "input decay", "scale decay")}
    (bowl,) = done.families
    runs = 6 * (2 if estimator == "mix" else 1)
    for tag in histograms:
        ((step, rows),) = found[tag]
        assert step == 2
        assert rows[:, 2].sum() == runs * bowl.layout.parameters
        if "decay" in tag:
            assert rows[0, 0] > 0 and rows[-1, 1] < 1
        else:
            # Within the drawn range, or near it.
            assert np.log(1e-6) - 1 < rows[0, 0] and rows[-1, 1] < np.log(1e-2) + 1


def test_states_are_those_of_the_parameters_without_the_padding():
    trained = trainer.Trainer(_config("tbptt", suite="released"))
    index = next(
        i for i, family in enumerate(trained.families)
        if family.layout.blocks * family.layout.lanes > family.layout.parameters
        and family.layout.tensors > 1)
    family, estimator = trained.families[index], trained.estimators[index]
    tasks = estimator.init(trained._key(1, index), trained.meta)
    numbers = [
        np.arange(6 * n, dtype="float32").reshape(2, 3, *shape)
        for n, shape in zip(family.layout.sizes, family.layout.shapes)]
    buffer = family.layout.flatten(numbers)
    empty = jnp.full_like(buffer, np.nan)
    trained.states[index] = tasks._replace(state=tasks.state | {
        "log_learning_rate": jnp.where(buffer == 0, empty, buffer)})
    found = trained.optimizer_states()[f"log learning rate/{family.name}"]
    # Each tensor's first number is 0, and so is the padding.
    assert np.isnan(found).sum() == family.layout.tensors
    expected = np.concatenate([n.ravel() for n in numbers])
    np.testing.assert_array_equal(np.sort(found[~np.isnan(found)]), np.sort(expected[expected > 0]))


def test_a_resumed_log_ends_at_the_checkpoint(tmp_path):
    lines = [json.dumps({"step": step}) for step in (1, 2, 3)]
    path = tmp_path / log.NAME
    assert log.read(tmp_path) == []
    path.write_text("\n".join([*lines, '{"step": 4, "los', '{"step": 5}']))
    assert [record["step"] for record in log.read(tmp_path)] == [1, 2, 3]
    log.Log(tmp_path, 2)
    assert path.read_text() == f"{lines[0]}\n{lines[1]}\n"


def test_progress_is_a_line_when_it_is_due(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0.05)
    with progress.bar(total=20, desc="run", unit="step") as bar:
        for i in range(20):
            time.sleep(0.01)
            bar.set_postfix_str(f"at {i}")
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) < 12 and lines[0].startswith("run:   0%")
    assert any("20/20" in line and "at 19" in line for line in lines)
