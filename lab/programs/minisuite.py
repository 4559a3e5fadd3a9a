"""Seven small tasks for scans: `python -m train --modules lab.programs.minisuite --suite mini`."""

from problems import FullyConnected, Problem
from problems.autoencoder import Autoencoder
from problems.datasets import Clusters, Glyphs, Teacher
from problems.sequences import MarkovText, RecurrentLanguageModel
from problems.suites import add_suite


def tasks() -> list[Problem]:
    """MLPs on distorted digits, an autoencoder, a language model, a teacher and clusters."""
    digits = Glyphs()

    def mlp(inputs, hidden, activation, init, data=digits, outputs=10, samples=4096, batch=32):
        return FullyConnected(
            inputs, outputs, hidden, activation, data=data, samples=samples, batch_size=batch,
            init=init, l2=0.0)

    return [
        mlp(100, (24,), "relu", "glorot"), mlp(64, (24, 24), "sigmoid", "paper"),
        mlp(64, (16, 16, 16), "tanh", "glorot"),
        Autoencoder(64, (24, 6, 24), "relu", data=digits, samples=2048, batch_size=32, init="he"),
        RecurrentLanguageModel(8, 8, 16, data=MarkovText(sharpness=2.0), batch_size=16),
        mlp(32, (32,), "relu", "glorot", Teacher(), samples=8192),
        mlp(24, (20, 20, 20), "gelu", "he", Clusters(sep=2.0), 8, 8192, 16),
    ]


add_suite("mini", tasks)
