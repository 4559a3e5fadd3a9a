"""How long runs and truncations are.

The released program's are heavy-tailed: a run has round(Exp(40)) + 1 truncations, each of
round(Exp(200)) + 50 inner steps. Here one program is compiled for all lengths, of `unroll` steps, a
*segment*; runs and truncations have whole numbers of them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from train.config import TrainConfig

# Inner steps of the released program's truncations: the shortest, and the mean of what is added.
LEAST = 50
MEAN_MORE = 200.0


def log_uniform(key: jax.Array, low: float, high: float, shape: tuple[int, ...]) -> jax.Array:
    """Numbers whose logarithms are uniform between those of `low` and `high`."""
    drawn = jnp.exp(jax.random.uniform(key, shape, minval=np.log(low), maxval=np.log(high)))
    # Rounding leaves the range: 1,000 comes back as 1,000.0001, of which a run has a segment more.
    return jnp.clip(drawn, low, high)


def segments(config: TrainConfig, step: int) -> int:
    """The number of segments in the truncations of a meta-step; it follows from (seed, step). With
    whole runs, that of a length in `run_range`, drawn log-uniformly.

    Rounded at random, so that the mean is kept where `unroll` is no longer than the shortest
    truncation.
    """
    rng = np.random.default_rng((config.seed, step, 1))
    if config.estimator == "full":
        low, high = np.log(config.run_range)
        return max(round(np.exp(rng.uniform(low, high)) / config.unroll), 1)
    if not config.heavy_tailed:
        return 1
    wanted = (round(rng.exponential(MEAN_MORE)) + LEAST) / config.unroll
    return max(int(np.floor(wanted + rng.random())), 1)


def horizons(
    key: jax.Array, config: TrainConfig, first: jax.Array | bool = False
) -> jax.Array:
    """(M,) lengths of runs in inner steps, whole segments. A run ends with the truncation that
    reaches its length.

    Args:
        key: one random key.
        config: of the training run.
        first: draw a part of a whole run's length.
    """
    shape = (config.models,)
    draw, part = jax.random.split(key)
    if config.run_length == "exponential":
        # ceil(x + 1/2) truncations are round(x) + 1. Where their lengths vary, an exponential
        # length in steps gives as many of them, on average and in the tail, to 1 %.
        mean = LEAST + MEAN_MORE if config.heavy_tailed else config.unroll
        steps = (config.run_scale * jax.random.exponential(draw, shape) + 0.5) * mean
    else:
        steps = log_uniform(draw, *config.run_range, shape)
    count = jnp.ceil(steps / config.unroll)
    count = jnp.where(first, jnp.ceil(count * jax.random.uniform(part, shape)), count)
    return (jnp.maximum(count, 1) * config.unroll).astype(jnp.int32)
