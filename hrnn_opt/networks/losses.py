"""The curve of the loss as VeLO and Celo read it: averages at ten time scales, and their minima.

Metz et al., "VeLO: Training Versatile Learned Optimizers by Scaling Up", 2022
(https://arxiv.org/abs/2211.09760), and the program that its authors released, whose quirks are kept
here. Everything is in 32 bits: differences of averages are small, and what they are divided by too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from hrnn_opt.interface import Field, State

SCALES = 10
INPUTS = SCALES - 1
# Where minima start, and the least of what differences are divided by.
_FAR = 999999999999.0
_LEAST = 1e-8
# Steps of the shortest time scale.
SHORTEST = 10.0

FIELDS = {
    "loss_means": Field("model", (SCALES,), wide=True),
    "loss_minima": Field("model", (SCALES,), wide=True),
    "losses": Field("model", wide=True),
}


def start(state: State) -> State:
    """Minima before the first loss."""
    return {"loss_minima": ops.full_like(state["loss_minima"], _FAR)}


def decays(horizon: Any) -> Any:
    """(10, ...) exp(-1 / tau), with tau log-spaced from 10 steps to the horizon, (...).

    A decay of a long training is so near 1 that its last bit counts: what is known before the
    program is compiled is computed by NumPy, on all backends alike.
    """
    known = isinstance(horizon, (int, float, np.ndarray, np.generic))
    lib: Any = np if known else ops
    if known:
        horizon = np.asarray(horizon, "float32")
    shares = np.linspace(0.0, 1.0, SCALES, dtype="float32").reshape(
        -1, *[1] * len(horizon.shape))
    if not known:
        shares = ops.convert_to_tensor(shares)
    shortest = np.float32(np.log10(SHORTEST))
    logs = shortest + shares * (lib.log10(lib.expand_dims(horizon, 0)) - shortest)
    found = lib.exp(-1.0 / lib.power(np.float32(10.0), logs))
    return ops.convert_to_tensor(found, "float32")


def observe(state: State, loss: Any, decay: Any) -> State:
    """The state of `FIELDS` with this loss.

    Args:
        state: before it.
        loss: (...).
        decay: (10, ...), or (1, ...) where they are all the same.
    """
    # Averages of one decay are computed once, and so equal to the bit.
    means, count = state["loss_means"][: decay.shape[0]], state["losses"]
    # How much of an average there is: for the old ones, by one step too many, as in the original.
    share = 1.0 - ops.power(decay, count + 1.0)
    reference = ops.where(count > 0, ops.max(means / share, axis=0), loss)
    # Spikes are cut, and drops are not.
    cut = ops.minimum(2.0 * ops.abs(reference), loss)
    means = decay * means + (1.0 - decay) * cut
    return {"loss_means": ops.broadcast_to(means, state["loss_means"].shape), "losses": count + 1.0,
            "loss_minima": ops.minimum(state["loss_minima"], means / share)}


def read(state: State, decay: Any) -> Any:
    """(9, ...) where each average lies between its minimum, -1, and the next slower average, 0, at
    most 1; of a state after a loss. 0 in the first two steps."""
    count, minima = state["losses"], state["loss_minima"]
    means = state["loss_means"] / (1.0 - ops.power(decay, count))
    above = means[1:] - minima[:-1]
    found = (means[:-1] - minima[:-1]) / ops.maximum(_LEAST, above) - 1.0
    return ops.where(count > 2, ops.clip(found, -1.0, 1.0), 0.0)
