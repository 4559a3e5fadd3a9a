"""The optimizer of the meta-parameters: gradient cleaning, clipping, averaging, and optax."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from train.config import TrainConfig
from train.tasks import Meta


class CleanGradient(NamedTuple):
    """The meta-gradient of one estimate, fit to be used.

    Attributes:
        gradient: by name, in units; the mean over members, each clipped.
        norms: (G,) norms of the members' gradients before clipping to `clip_member`.
        signal: norm of the members' mean gradient over the mean of their norms, before clipping:
            1 where they agree, 1 / sqrt(G) where they have nothing in common.
        clipped, left_out: shares of the members whose norm was clipped, or beyond `norm_limit`.
        bad: share of all entries that were not finite.
    """

    gradient: Meta
    norms: jax.Array
    signal: jax.Array
    clipped: jax.Array
    left_out: jax.Array
    bad: jax.Array


def clean(gradients: Meta, config: TrainConfig) -> CleanGradient:
    """Gradients by units. Entries that are not finite or not to be trained become 0, the others are
    clipped to `clip_entry`; then each member's gradient is scaled to a norm of at most
    `clip_member`, so that one diverging member cannot dominate, and the members are averaged.

    Args:
        gradients: by name, (G, ...).
    """
    gradients = {
        name: g * config.unit(name) if config.trains(name) else jnp.zeros_like(g)
        for name, g in gradients.items()}
    finite = jax.tree.map(jnp.isfinite, gradients)
    total = sum(leaf.size for leaf in jax.tree.leaves(gradients))
    bad = sum(jnp.sum(~leaf) for leaf in jax.tree.leaves(finite)) / total
    bound = config.clip_entry
    gradients = jax.tree.map(
        lambda g, ok: jnp.clip(jnp.where(ok, g, 0.0), -bound, bound), gradients, finite)
    norms = jax.vmap(optax.global_norm)(gradients)
    kept = jnp.ones_like(norms)
    if config.norm_limit:
        whole = jnp.stack([
            jnp.all(ok.reshape(len(norms), -1), axis=1) for ok in jax.tree.leaves(finite)])
        kept = (jnp.all(whole, axis=0) & (norms <= config.norm_limit)).astype(norms.dtype)
    scale = jnp.ones_like(norms)
    if config.clip_member:
        scale = jnp.minimum(1.0, config.clip_member / jnp.maximum(norms, 1e-30))
    count = jnp.maximum(jnp.sum(kept), 1.0)

    def mean(weights: jax.Array) -> Meta:
        return jax.tree.map(lambda g: jnp.tensordot(weights, g, axes=1) / count, gradients)

    signal = optax.global_norm(mean(kept)) * count / jnp.maximum(jnp.sum(kept * norms), 1e-30)
    return CleanGradient(
        mean(kept * scale), norms, signal, jnp.mean(scale < 1.0), 1.0 - jnp.mean(kept), bad)


def meta_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Adam, AdamW (decays 0.9, 0.999 and 1e-4, of what is trained) or the released program's
    RMSProp (decay 0.9, epsilon 1e-20), with its schedule."""
    rate = optax.constant_schedule(config.meta_learning_rate)
    if config.meta_schedule == "cosine":
        rate = optax.cosine_decay_schedule(config.meta_learning_rate, config.steps)
    if config.warmup:
        constant = rate

        def rate(step):
            return constant(step) * jnp.minimum(1.0, (step + 1) / config.warmup)

    if config.meta_optimizer == "rmsprop":
        return optax.rmsprop(rate, decay=0.9, eps=1e-20)
    if config.meta_optimizer == "adamw":
        return optax.adamw(
            rate, b1=0.9, b2=0.999, weight_decay=1e-4,
            mask=lambda meta: {name: config.trains(name) for name in meta})
    return optax.adam(rate, b1=0.9, b2=0.99)
