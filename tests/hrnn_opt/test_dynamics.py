import sys

import keras
import numpy as np
import pytest
from keras import ops
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from hrnn_opt import HierarchicalLOpt, LearningRateDynamics
from hrnn_opt.registry import network_of
from hrnn_opt.training import dynamics
from tests.hrnn_opt import support
from tests.hrnn_opt.reference import Switches
from tests.hrnn_opt.support import data, fit, values, weights

# What `fit` makes of `data`.
BATCHES = 4
QUARTILES = {"lower quartile": 25, "median": 50, "upper quartile": 75}
FORMS = {
    "learned": dict(),
    "lookahead": dict(lookahead=True),
    "normalized": dict(step_size="normalized"),
    "averaging": dict(
        step_size="normalized", averaging=0.9, update_scale_decay=0.99,
        width_exponent=0.5, alignment_control=True),
    "turned": dict(
        step_size="normalized", averaging=0.9, update_scale_decay=0.99, width_exponent=0.5,
        alignment_control=True, rotation_limit=16),
    "no output scale": dict(dynamic_output_scale=False),
    "one scale, one level": dict(time_scales=1, tensor_units=0, global_units=0),
}


def learned(form: str, **arguments) -> HierarchicalLOpt:
    """An optimizer of this form, whose steps can be seen."""
    switches = FORMS[form]
    kept = not {"step_size", "dynamic_output_scale"} & set(switches)
    rate = (1e-3, 1e-1) if kept else None
    return HierarchicalLOpt(**{
        "weights": weights(**switches), "initial_learning_rate": rate, "learning_rate": 0.05,
        "seed": 0, **arguments})


def events(folder) -> dict[str, dict[int, np.ndarray]]:
    """What TensorBoard reads: by tag and step, a number or a histogram's rows low, high, count."""
    accumulator = EventAccumulator(str(folder), tensor_size_guidance={"tensors": 0})
    accumulator.Reload()
    return {
        tag: {e.step: tensor_util.make_ndarray(e.tensor_proto) for e in accumulator.Tensors(tag)}
        for tag in accumulator.Tags()["tensors"]}


def flat(tensor, leading: int = 0) -> np.ndarray:
    array = np.array(ops.convert_to_numpy(tensor), "float64")
    return array.reshape(*array.shape[:leading], -1)


def rms(x) -> float:
    return np.sqrt(np.mean(np.square(x)))


def by_hand(opt: HierarchicalLOpt, before: list[np.ndarray]) -> dict[str, float]:
    """What shall be logged by tag, from the optimizer's state and from its formulas."""
    state, config = opt.state(), Switches(opt.network_config)
    network = {name: flat(v) for name, v in opt.meta_parameters.items()}
    columns, found = {}, {}

    def per_tensor(buffer, leading=0):
        return [flat(tensor, leading) for tensor in opt.per_variable(buffer)]

    rate = np.log(float(ops.convert_to_numpy(opt.learning_rate)))
    if not config.dynamic_output_scale:
        columns["rate"] = [
            rate + np.log(2 / (1 + np.exp(-(
                network["learning_rate_weights"] @ h + network["learning_rate_bias"]))))
            for h in per_tensor(state["hidden"], 1)]
    else:
        etas = per_tensor(state["log_learning_rate"])
        if config.update_scale_decay:
            sums = flat(state["update_scale"], 1)
            scales = np.sqrt(sums[0] / sums[1])
        elif config.step_size == "normalized":
            scales = [rms(np.exp(eta)) for eta in etas]
        else:
            scales = [np.exp(-network["step_size_offset"])] * len(etas)
        columns["rate"] = [rate + eta - np.log(scale) for eta, scale in zip(etas, scales)]
        columns["rate"] = [
            r - 0.5 * np.log(np.prod(v.shape[:-1]) / 256) if config.width_exponent and v.ndim > 1
            else r for r, v in zip(columns["rate"], opt._trainable_variables)]
        if config.alignment_control:
            found["overall/global log step size"] = float(flat(state["log_step_size"])[0])
            columns["rate"] = [r + float(flat(state["log_step_size"])[0]) for r in columns["rate"]]
    columns["true"] = [flat(x) for x in opt.true_parameters()]
    columns["update"] = [a - b.ravel() for a, b in zip(columns["true"], before)]
    if opt.attends:
        columns["ahead"] = [
            a - flat(v) for a, v in zip(columns["true"], opt._trainable_variables)]
    columns["decay"] = per_tensor(state["scale_decay"])
    columns["norm"] = [np.sqrt(np.sum(h**2, 0)) for h in per_tensor(state["hidden"], 1)]
    if config.time_scales > 1:
        columns["momentum"] = per_tensor(state["input_decay"])
        columns["squares"] = [np.log(x + 1e-16) for x in per_tensor(state["mean_squares"], 1)]
    if config.tensor_units:
        columns["tensor"] = list(np.sqrt(np.sum(flat(state["tensor_hidden"], 1)**2, 0))[:, None])
        found["overall/global RNN norm"] = np.sqrt(np.sum(flat(state["global_hidden"])**2))

    def add(name, c):
        found[name("log learning rate", "/mean")] = np.mean(c["rate"])
        for part, percent in QUARTILES.items():
            found[name("log learning rate", f"/{part}")] = np.percentile(c["rate"], percent)
        found[name("update RMS")] = rms(c["update"])
        found[name("parameter RMS")] = rms(c["true"])
        found[name("update to parameter ratio")] = rms(c["update"]) / rms(c["true"])
        found[name("scale decay")] = np.median(c["decay"])
        found[name("parameter RNN norm")] = np.mean(c["norm"])
        if "ahead" in c:
            found[name("distance ahead RMS")] = rms(c["ahead"])
        if "tensor" in c:
            found[name("tensor RNN norm")] = np.mean(c["tensor"])
        for s in range(config.time_scales if "momentum" in c else 0):
            decay = c["momentum"] ** (0.5**s)
            found[name("momentum time scale", f"/{s + 1}")] = np.median(-1 / np.log(decay))
            found[name("relative log mean square", f"/{s + 1}")] = np.mean(
                c["squares"][s] - np.mean(c["squares"], axis=0))

    add(lambda quantity, part="": f"overall/{quantity}{part}",
        {key: np.concatenate(column, axis=-1) for key, column in columns.items()})
    for k, variable in enumerate(opt._trainable_variables):
        add(lambda quantity, part="", path=variable.path: f"tensor {quantity}/{path}{part}",
            {key: column[k] for key, column in columns.items()})
    return found | {"overall/skipped steps": float(ops.convert_to_numpy(opt.skipped_steps))}


class Watch(keras.callbacks.Callback):
    """Computes by hand at every batch what shall be logged."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def optimizer(self):
        return getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)

    def on_train_begin(self, logs=None):
        self.before = values(self.model.trainable_variables)

    def on_train_batch_end(self, batch, logs=None):
        opt = self.optimizer()
        self.seen[len(self.seen) + 1] = by_hand(opt, self.before)
        self.before = values(opt.true_parameters())


def numbers(found) -> dict[int, dict[str, float]]:
    """The scalars of `events` by step."""
    steps = {step for series in found.values() for step in series}
    return {
        step: {
            tag: float(series[step]) for tag, series in found.items()
            if step in series and series[step].ndim == 0}
        for step in steps}


def model(**arguments) -> keras.Model:
    """The same model each time, down to the paths of its variables."""
    keras.utils.clear_session()
    return support.model(**arguments)


def logged(network: keras.Model, callback: LearningRateDynamics, **arguments):
    """The scalars by step after a run."""
    fit(network, callbacks=[callback], **arguments)
    return numbers(events(callback.log_dir))


def assert_same(ours, theirs, tolerance=2e-3):
    assert set(ours) == set(theirs)
    for tag, expected in theirs.items():
        # An update is a difference of rounded numbers.
        slack = 1e-6 if "update" in tag or "ahead" in tag else 1e-5
        assert ours[tag] == pytest.approx(expected, rel=tolerance, abs=slack), tag


# What is logged is made by the same code everywhere; how it is read differs.
@pytest.mark.parametrize("form", FORMS if keras.backend.backend() == "jax" else [
    "lookahead", "turned", "no output scale"])
def test_what_is_logged_is_what_the_state_says(tmp_path, form):
    # Two runs, as looking at the model brings JAX's variables up to date for the other callback.
    watch = Watch()
    fit(model(optimizer=learned(form)), epochs=2, callbacks=[watch])
    ours = logged(model(optimizer=learned(form)), LearningRateDynamics(tmp_path, 3), epochs=2)
    assert sorted(ours) == [3, 6]
    for step, found in ours.items():
        assert_same(found, watch.seen[step])
        assert found["overall/update RMS"] > 1e-5
        ahead = found.get("overall/distance ahead RMS", 0)
        assert (ahead > 1e-5) == (form == "lookahead")


@pytest.mark.parametrize("form", ["learned", "normalized", "no output scale"])
def test_a_direction_of_one_moves_by_the_learning_rate(tmp_path, form):
    # Untrained, no parameter changes its learning rate: updates are as large as that says.
    opt = learned(form, weights=network_of(support.config_of(**FORMS[form])))
    found = logged(model(optimizer=opt), LearningRateDynamics(tmp_path, BATCHES))[BATCHES]
    for tensor in [variable.path for variable in opt._trainable_variables]:
        rate = np.exp(found[f"tensor log learning rate/{tensor}/mean"])
        if form == "no output scale":
            # 2 sigmoid(0): directions go as they are.
            assert rate == pytest.approx(0.05, rel=1e-4)
        elif form == "normalized":
            assert rate == pytest.approx(found[f"tensor update RMS/{tensor}"], rel=1e-3)
        else:
            # Rates differ within a tensor.
            low, high = (
                np.exp(found[f"tensor log learning rate/{tensor}/{part} quartile"])
                for part in ("lower", "upper"))
            assert low / 3 < found[f"tensor update RMS/{tensor}"] < 3 * high


def test_histograms_are_of_every_parameter(tmp_path):
    opt = learned("learned")
    network = model(optimizer=opt)
    fit(network, callbacks=[LearningRateDynamics(tmp_path / "with", 1)])
    found = events(tmp_path / "with")
    sizes = {v.path: int(np.prod(v.shape)) for v in opt._trainable_variables}
    for tag, size in {
        "overall/log learning rate": sum(sizes.values()),
        **{f"tensor log learning rate/{path}": size for path, size in sizes.items()},
    }.items():
        assert set(found[tag]) == set(range(1, BATCHES + 1))
        assert found[tag][BATCHES][:, 2].sum() == size
        assert found[tag][BATCHES][0, 0] <= found[f"{tag}/mean"][BATCHES]
        assert found[f"{tag}/mean"][BATCHES] <= found[tag][BATCHES][-1, 1]
    fit(network, callbacks=[LearningRateDynamics(tmp_path / "without", 2, histograms=False)])
    without = events(tmp_path / "without")
    assert set(without) == {tag for tag, series in found.items() if series[BATCHES].ndim == 0}


def test_batches_are_counted_on_from_the_optimizers_own(tmp_path):
    network, callback = model(optimizer=learned("learned")), LearningRateDynamics(tmp_path, 3)
    assert sorted(logged(network, callback)) == [3]
    # The same callback, and another; 8 and 12 batches done.
    assert sorted(logged(network, callback)) == [3, 6]
    assert sorted(logged(network, LearningRateDynamics(tmp_path / "other", 3))) == [9, 12]


def test_more_than_there_are_batches(tmp_path):
    assert logged(model(optimizer=learned("averaging")), LearningRateDynamics(tmp_path)) == {}


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch has one step only")
def test_several_steps_in_one_execution(tmp_path):
    plain, together = model(optimizer=learned("learned")), model(
        optimizer=learned("learned"), steps_per_execution=2)
    expected = logged(plain, LearningRateDynamics(tmp_path / "plain", 1), epochs=2)
    found = logged(together, LearningRateDynamics(tmp_path / "together", 3), epochs=2)
    # The executions in which the third and the sixth batch are.
    assert sorted(found) == [4, 6]
    for quantity in ("log learning rate/mean", "parameter RMS"):
        assert found[4][f"overall/{quantity}"] == pytest.approx(
            expected[4][f"overall/{quantity}"], rel=1e-4)


def test_accumulated_gradients_move_at_their_last_batch(tmp_path):
    network = model(optimizer=learned("lookahead", gradient_accumulation_steps=2))
    found = logged(network, LearningRateDynamics(tmp_path, 1), epochs=2)
    assert sorted(found) == list(range(1, 9))
    moved = {step: found[step]["overall/update RMS"] > 1e-6 for step in found if step > 1}
    assert moved == {step: step % 2 == 0 for step in range(2, 9)}


def test_inside_a_loss_scale_optimizer(tmp_path):
    scaled = keras.optimizers.LossScaleOptimizer(learned("averaging"), initial_scale=4.0)
    found = logged(model(optimizer=scaled), LearningRateDynamics(tmp_path / "scaled", 3))
    expected = logged(
        model(optimizer=learned("averaging")), LearningRateDynamics(tmp_path / "plain", 3))
    assert_same(found[3], expected[3])


def test_several_learned_optimizers_have_a_folder_each(tmp_path):
    network = model()
    first, second = (layer.path for layer in network.layers)
    opt = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(
        keras.optimizers.SGD(0.1),
        {f"{first}/.*": learned("normalized"), f"{second}/kernel": learned("lookahead"),
         "nowhere": learned("averaging")}))
    network.compile(
        optimizer=opt, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    fit(network, callbacks=[LearningRateDynamics(tmp_path, 2)])
    tensors = [
        {tag.partition("/")[2] for tag in events(tmp_path / folder) if "update RMS/" in tag}
        for folder in "012"]
    assert sorted(map(sorted, tensors)) == [
        [], [f"{first}/bias", f"{first}/kernel"], [f"{second}/kernel"]]


def test_skipped_steps(tmp_path):
    x, y = data()
    x[0] = np.inf
    network = model(optimizer=learned("learned"))
    network.fit(x, y, batch_size=8, shuffle=False, verbose=0,
                callbacks=[LearningRateDynamics(tmp_path, 1)])
    found = numbers(events(tmp_path))
    assert [found[step]["overall/skipped steps"] for step in range(1, 5)] == [1, 1, 1, 1]
    assert found[1].get("overall/update RMS", 0) == 0 < found[2]["overall/update RMS"]
    assert all(np.isfinite(list(step.values())).all() for step in found.values())


def test_narrow_numbers(tmp_path):
    network = model(optimizer=learned("lookahead", state_dtype="bfloat16"))
    found = logged(network, LearningRateDynamics(tmp_path, 2))
    assert sorted(found) == [2, 4] and np.isfinite(list(found[4].values())).all()
    narrow = dynamics._numpy(ops.cast([1.5, -2.0], "bfloat16"))
    assert narrow.dtype == "float32" and narrow.tolist() == [1.5, -2.0]


def test_numbers_at_the_edge():
    opt = HierarchicalLOpt(weights(time_scales=2))
    opt.build([keras.Variable(np.zeros(2))])
    ones = np.ones(2, "float32")
    state = dict(
        hidden=np.ones((10, 2)), averages=np.ones((2, 2)), mean_squares=np.zeros((2, 2)),
        input_decay=np.array([0.0, 1.0], "float32"), scale_decay=ones, log_learning_rate=0 * ones)
    found = dynamics.values(opt, state, (2,), 0 * ones, 0.0, before=ones)
    assert found["momentum time scale"][0].tolist() == [0, np.inf]
    summary = dynamics.summary(found)
    # Neither a log of 0 nor a ratio to it.
    assert not [name for name in summary if "learning rate" in name or "ratio" in name]
    assert summary["update RMS"] == 1 and summary["parameter RMS"] == 0


def test_a_tensor_without_a_gradient_yet_has_no_rate():
    opt = learned("averaging", weights=weights(**FORMS["averaging"]))
    moved, still = (keras.Variable(np.ones(3), name=name) for name in ("moved", "still"))
    opt.build([moved, still])
    # The sum of squares and of weights: the second tensor has none of either.
    opt._state_variables["update_scale"].assign([[0.125, 0.0], [0.5, 0.0]])
    scalars, histograms = dynamics.measure(opt)
    overall, of_moved = (tag for tag in scalars if "rate/" in tag and tag.endswith("/mean"))
    assert overall == "overall/log learning rate/mean" and moved.path in of_moved
    assert scalars[of_moved] == scalars[overall] == pytest.approx(np.log(0.05 / 0.5))
    assert np.isfinite(histograms[f"tensor log learning rate/{moved.path}"]).all()
    assert np.isnan(histograms[f"tensor log learning rate/{still.path}"]).all()


def test_variables_of_one_path_are_kept_apart():
    opt = learned("learned")
    opt.build([keras.Variable(np.ones(3), name="same") for _ in range(2)])
    scalars, _ = dynamics.measure(opt)
    assert {tag.partition("/")[2] for tag in scalars if tag.startswith("tensor parameter RMS")} == {
        "same", "same (2)"}


# What is not allowed.

@pytest.mark.parametrize("other", [
    lambda: keras.optimizers.SGD(),
    lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())], ids=["SGD", "inside"])
def test_another_optimizer_is_refused(tmp_path, other):
    with pytest.raises(ValueError, match="needs a model compiled with LearnedOpt, got SGD"):
        fit(model(optimizer=other()), callbacks=[LearningRateDynamics(tmp_path)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("every", [0, -1, 2.0, True, "10", None])
def test_every_must_be_a_positive_integer(tmp_path, every):
    with pytest.raises(ValueError, match="`every` must be an integer of at least 1, got "):
        LearningRateDynamics(tmp_path, every)


def test_without_tensorboard_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "hrnn_opt.training.events", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        LearningRateDynamics(tmp_path)
