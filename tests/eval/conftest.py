"""Real digits in the form of MNIST, a stand-in for training, and the figures that are saved."""

import contextlib
import gzip
import struct

import numpy as np
import pytest

from eval.runs import data
from eval.runs.data import Data
from eval.runs.run import Run


@pytest.fixture(scope="session")
def digits() -> Data:
    """Scikit-learn's digits, enlarged to 28 x 28."""
    return data.digits()


@pytest.fixture(scope="session")
def data_dir(digits, tmp_path_factory) -> str:
    """A folder with the digits in MNIST's four files."""
    folder = tmp_path_factory.mktemp("mnist")
    for name, x, y in (("train", digits.x_train, digits.y_train),
                       ("t10k", digits.x_test, digits.y_test)):
        pixels = np.round(x * 255).astype("uint8")
        images = struct.pack(">IIII", 2051, *pixels.shape[:3]) + pixels.tobytes()
        labels = struct.pack(">II", 2049, len(y)) + y.astype("uint8").tobytes()
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return str(folder)


class FakeRuns:
    """Takes the place of training: keeps the runs, and answers with a formula.

    The loss is 0.1 at a learning rate of 0.01 and ten times higher a decade away; the three seeds
    differ by 10 %; from 1 on it diverges. The cosine schedule halves it.
    """

    def __init__(self):
        self.runs = []

    def __call__(self, run, data, on_progress=None):
        self.runs.append(run)
        rate = run.learning_rate or 1e-2
        diverged = rate >= 1
        loss = 0.1 * 10 ** abs(np.log10(rate / 1e-2)) * (1 + 0.1 * (run.seed - 1))
        loss /= 2 if run.schedule == "cosine" else 1
        curve = [[step, loss * run.steps / step] for step in (run.steps // 2, run.steps)]
        return {
            "final_training_loss": None if diverged else loss,
            "test_accuracy": None if diverged else 0.9,
            "curve": [] if diverged else curve,
            "diverged": diverged,
            "seconds": 0.0,
            **run.configuration(data),
        }


@pytest.fixture
def fake_runs(monkeypatch) -> FakeRuns:
    """Replaces training by a formula."""
    fake = FakeRuns()
    monkeypatch.setattr(Run, "execute", lambda run, data, on_progress=None: fake(run, data))
    return fake


@pytest.fixture
def no_workers(monkeypatch) -> None:
    """`compare` and others run in this process, where training can be replaced."""
    from eval.commands import ablate, accuracy, compare

    for command in (ablate, accuracy, compare):
        monkeypatch.setattr(command, "Workers", lambda *arguments: contextlib.nullcontext())


@pytest.fixture
def figures(monkeypatch) -> list:
    """The figures that are saved."""
    from eval.figures import pictures

    saved, save = [], pictures.save
    monkeypatch.setattr(
        pictures, "save", lambda figure, path: (saved.append(figure), save(figure, path)))
    return saved
