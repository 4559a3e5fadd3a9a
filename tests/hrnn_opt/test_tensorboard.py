"""TensorBoard itself, started on a log: what its dashboards offer, asked over its own HTTP."""

import json
import time
import urllib.parse
import urllib.request

import numpy as np
import pytest

from hrnn_opt import LearningRateDynamics
from hrnn_opt.training import dynamics
from hrnn_opt.training.events import EventWriter, crc32c
from tests.hrnn_opt.support import fit, hierarchical_optimizer, model, variables

# Served by TensorBoard, whatever the backend that wrote the log.
pytestmark = pytest.mark.jax_only

SCALARS = {
    *(f"log learning rate/{part}" for part in ("mean", "lower quartile", "median",
                                               "upper quartile")),
    "update RMS", "parameter RMS", "update to parameter ratio",
    *(f"momentum time scale/{s}" for s in (1, 2, 3, 4)), "scale decay",
    *(f"relative log mean square/{s}" for s in (1, 2, 3, 4)),
    "parameter RNN norm", "tensor RNN norm", "distance ahead RMS"}


@pytest.fixture(scope="module")
def tensorboard(tmp_path_factory):
    """Asks a TensorBoard for JSON: run `fit` is of a fit, `large` of a network of 160 tensors."""
    from tensorboard import program

    folder = tmp_path_factory.mktemp("logs")
    network = model(optimizer=hierarchical_optimizer(lookahead=True))
    callback = LearningRateDynamics(folder / "fit", every=2)
    fit(network, epochs=2, callbacks=[callback])
    callback.paths = [variable.path for variable in network.trainable_variables]
    large = hierarchical_optimizer()
    large.build(variables([(2,)] * 160))
    writer = EventWriter(folder / "large")
    writer.write(1, *dynamics.measure(large))
    writer.close()

    server = program.TensorBoard()
    server.configure(
        logdir=str(folder), host="127.0.0.1", port=0, load_fast="false", reload_interval=0)
    url = server.launch()

    def ask(path, **query):
        request = f"{url}data/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    # It reads the logs in a thread of its own.
    for _ in range(300):
        if {"fit", "large"} <= set(ask("plugin/histograms/tags")):
            break
        time.sleep(0.1)
    ask.paths = callback.paths
    return ask


def test_the_dashboards_are_on(tensorboard):
    listing = tensorboard("plugins_listing")
    assert all(listing[name]["enabled"] for name in ("timeseries", "scalars", "histograms"))


def test_everything_promised_is_there_for_each_tensor_and_overall(tensorboard):
    expected = {f"overall/{quantity}" for quantity in SCALARS} | {
        dynamics.tag(quantity, path) for quantity in SCALARS for path in tensorboard.paths} | {
        "overall/global RNN norm", "overall/skipped steps"}
    assert set(tensorboard("plugin/scalars/tags")["fit"]) == expected
    assert set(tensorboard("plugin/histograms/tags")["fit"]) == {
        dynamics.tag("log learning rate", path) for path in (None, *tensorboard.paths)}
    for tag in expected:
        points = tensorboard("plugin/scalars/scalars", run="fit", tag=tag)
        assert [step for _, step, _ in points] == [2, 4, 6, 8], tag
        assert np.isfinite([value for _, _, value in points]).all(), tag


def test_histograms_lie_around_the_mean(tensorboard):
    tag = "overall/log learning rate"
    histograms = tensorboard("plugin/histograms/histograms", run="fit", tag=tag)
    means = tensorboard("plugin/scalars/scalars", run="fit", tag=f"{tag}/mean")
    for (_, step, buckets), (_, same, mean) in zip(histograms, means, strict=True):
        buckets = np.array(buckets)
        assert step == same
        assert buckets[0, 0] - 1e-5 <= mean <= buckets[-1, 1] + 1e-5
        # The parameters of `model`.
        assert buckets[:, 2].sum() == 4 * 5 + 5 + 5 * 3 + 3


def test_a_large_network_has_few_groups(tensorboard):
    tags = tensorboard("plugin/scalars/tags")["large"]
    groups = sorted({tag.partition("/")[0] for tag in tags})
    assert len(tags) > 160 * 10
    assert len(groups) <= 12 and groups[0] == "overall"


@pytest.mark.parametrize("length", [4, 20, 255, 256, 257, 70_000])
def test_checksums_are_tensorboards(length):
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import crc32c as by_the_byte

    assert crc32c(b"123456789") == 0xE3069283
    data = np.random.default_rng(length).bytes(length)
    assert crc32c(data) == by_the_byte(data)
