"""Writes `flax_*.state`: small files of Flax's own serializer, with which the authors of Celo and
VeLO wrote theirs. Needs `flax`; the files were written by flax 0.12.8."""

import collections
import pathlib

import jax.numpy as jnp
import numpy as np
from flax import serialization

# As Haiku's, in which the LSTM's start is kept.
LSTMState = collections.namedtuple("LSTMState", ["hidden", "cell"])


def counted(*shape: int, start: float) -> jnp.ndarray:
    """Numbers that say where they stand."""
    return jnp.asarray(start + np.arange(np.prod(shape)).reshape(shape) / 1024, "float32")


def small_fc() -> dict:
    """The meta-parameters of a small_fc of 4 units."""
    shapes = {"w0": (39, 4), "b0": (4,), "w1": (4, 2), "b1": (2,)}
    return {
        "nn": {"~": {name: counted(*shape, start=i) for i, (name, shape) in enumerate(
            shapes.items())}},
        "momentum_decays": counted(3, start=0.5), "rms_decays": counted(1, start=0.5),
        "adafactor_decays": counted(3, start=0.5)}


def celo() -> dict:
    """The meta-parameters of a Celo-Adam of 4 units."""
    layers = {"linear": (18, 4), "linear_1": (18, 4), "linear_2": (18, 4), "rnn/linear": (8, 16),
              "step_size": (4, 1), "rnn_to_controls": (4, 1)}
    return {
        "lstm_init_state": LSTMState(counted(1, 4, start=0), counted(1, 4, start=1)),
        "rnn_params": {name: {"w": counted(*shape, start=i), "b": counted(shape[1], start=-i)}
                       for i, (name, shape) in enumerate(layers.items())}}


if __name__ == "__main__":
    for name, tree in {"small_fc": small_fc(), "celo": celo()}.items():
        path = pathlib.Path(__file__).parent / f"flax_{name}.state"
        path.write_bytes(serialization.to_bytes(tree))
