import json

import pytest

pytest.importorskip("tensorboard")

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.errors import OutOfRangeError
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

from eval.__main__ import main
from eval.commands import quickstart
from hrnn_opt.training.events import EventWriter


def scalars(folder):
    (file,) = folder.iterdir()
    reader = PyRecordReader_New(str(file).encode())
    found = {}
    while True:
        try:
            # It checks the checksums that TensorBoard checks.
            reader.GetNext()
        except OutOfRangeError:
            return found
        event = Event.FromString(reader.record())
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))


def test_scalars_are_read_back(tmp_path):
    writer = EventWriter(tmp_path / "run")
    writer.write(1, {"loss": 2.0, "accuracy": 0.5})
    writer.write(2, {"loss": 1.0})
    writer.close()
    assert scalars(tmp_path / "run") == {"loss": [(1, 2.0), (2, 1.0)], "accuracy": [(1, 0.5)]}


def test_quickstart_trains_both_and_leaves_plot_and_logs(capsys, tmp_path):
    assert main(["quickstart", f"--out={tmp_path}", "--epochs=6", "--seeds=0,1", "--json"]) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert set(report) == {"HierarchicalLOpt", "Adam"}
    for name, result in report.items():
        assert min(result["test_accuracy"]) > 0.9
        assert len(result["losses"]) == 2 and result["losses"][0] != result["losses"][1]
        for seed, losses in enumerate(result["losses"]):
            assert len(losses) == 6
            logs = scalars(tmp_path / "logs" / name / str(seed))
            assert [value for _, value in logs["train/loss"]] == pytest.approx(losses)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    # No terminal, so not a line for each state of the bar.
    assert "Adam" in printed.err and "\r" not in printed.err
    assert len(printed.err.splitlines()) < 20


def test_labels_that_would_overlap_are_moved_apart():
    assert quickstart._apart([1.0, 0.1]) == [1.0, 0.1]
    high, low = quickstart._apart([1.01, 1.0])
    assert high / low == pytest.approx(1.35)
    low, high = quickstart._apart([1.0, 1.01])
    assert high / low == pytest.approx(1.35)
