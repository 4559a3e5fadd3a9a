"""The size of all steps, by how gradients are aligned with the way to the average."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any, ClassVar

import keras
from keras import ops

from hrnn_opt.checks import Config, check
from hrnn_opt.interface import Field, Seen, State, Step
from hrnn_opt.places import backend
from hrnn_opt.places.layout import Layout, block_sums
from hrnn_opt.places.sweep import Moved, sweep
from hrnn_opt.registry import register
from hrnn_opt.rules.chain import Rule

# Of the factor that is steered, either way.
LOG_STEP_SIZE_BOUND = math.log(1e4)
# What smaller ones would be divided by leaves 32 bits in meta-gradients.
_SMALLEST_MEAN_SQUARE = 1e-20
# How alignment steers before training. At rates that train networks well, the cosine of a gradient
# with the way to the average is about the target, early and late; the slope tells a good rate from
# half or twice of it; the gain is a power of the number of steps. Control comes after a delay: the
# way lags behind the rate, which without it would shoot far beyond what suits in the first steps
# and saturate units, of which the cosine does not tell that steps are too large. It wanes after so
# many steps, sooner where it lets them grow, as later they must be smaller. For what the first
# steps led to must not be kept for ever, they also fall with a power of time.
#
# Chosen on generated pictures and scikit-learn's digits, and in sight of MNIST's sigmoid, tanh and
# ReLU MLPs, seed 0 (delay and target).
START = {
    "target": -0.02, "slope": 20.0, "gain": 2.0, "log_delay": math.log(50.0),
    "log_steps": math.log(5000.0), "log_growth_steps": math.log(500.0), "decay": 0.2}


@dataclasses.dataclass(frozen=True)
class AlignmentConfig(Config):
    """Switches of the rule; what it steers by is among the meta-parameters.

    Args:
        guarded: whether steps grow the less, the smaller gradients are beside their running mean
            squares.

    Raises:
        ValueError: if it is not True or False.
    """

    guarded: bool = False

    NAME: ClassVar[str] = "alignment"

    def __post_init__(self) -> None:
        check(self, "guarded", isinstance(self.guarded, bool), "True or False")


@register
class Alignment(Rule):
    """All updates have a factor exp(s). At step t,

    s <- s + gain / ((t + delay) (1 + t / steps)) tanh(slope (c - target))
    - decay / (t + growth_steps). The steps are those of growth where the tanh is positive, and
    c = g . d / sqrt(sum_i g_i^2 / sqrt(v_i)  sum_i sqrt(v_i) d_i^2), with d the way from the fast
    iterate to the average and v the inner network's `metric`.

    d is made of earlier updates, and the gradient's noise is new, so that their product has no
    bias. While the average only lags behind, gradients point along d: c is positive, and larger
    steps would have gone further. Once the fast iterate strays about a valley by noise, more so the
    larger its steps are, gradients point back to the average: it is negative.

    c is the cosine in the metric that steps are made in, of gradients over their root mean square:
    each entry then counts by how far it moves, not by how steep it is. Those whose gradients are
    rarely felt hardly count, however far they have strayed. Of a network without a metric it is the
    plain one.

    What is learned by heart has gradients that vanish and all point one way: c is positive, and
    steps would grow until they lead out of the minimum. With `guarded`, and a metric, growth has
    the factor min(1, sum_i g_i^2 / sqrt(v_i) / sum_i sqrt(v_i)): about 1 where gradients are as
    large as they were, and next to 0 where they vanish faster than v forgets.
    """

    Config = AlignmentConfig

    def __init__(self, inner, config=None, **options):
        super().__init__(inner, config, **options)
        for name, value in START.items():
            setattr(self, f"alignment_{name}", self.add_weight(
                name=f"alignment_{name}", shape=(), initializer=keras.initializers.Constant(value)))

    @property
    def needs(self):  # type: ignore[override]
        return self.inner.needs | {"offset"}

    @property
    def own_fields(self):
        # What is steered by must have been moved.
        field = Field("model", wide=True, of_moves=True)
        return {"alignment_steps": field, "log_step_size": field}

    def around(self, layout, state, seen, inner, active):
        step = inner(seen)
        factor = ops.exp(state["log_step_size"])[..., None, None]
        cosine, size, known = self._cosine(layout, seen, step, active)
        steps = state["alignment_steps"] + 1.0
        push = ops.tanh(self.alignment_slope * (cosine - self.alignment_target))
        if self.config.guarded:
            push = ops.where(push > 0, push * ops.minimum(size, 1.0), push)
        growth_steps = ops.exp(self.alignment_log_growth_steps)
        delay = ops.exp(self.alignment_log_delay)
        waning = ops.where(push > 0, growth_steps, ops.exp(self.alignment_log_steps))
        change = (self.alignment_gain / ((steps + delay) * (1.0 + steps / waning)) * push
                  - self.alignment_decay / (steps + growth_steps))
        log_step_size = ops.clip(
            state["log_step_size"] + ops.where(known, change, 0.0),
            -LOG_STEP_SIZE_BOUND, LOG_STEP_SIZE_BOUND)
        return {"alignment_steps": steps, "log_step_size": log_step_size}, step._replace(
            update=factor * step.update, squares=None,
            ahead=None if step.ahead is None else factor * step.ahead)

    def _cosine(
        self, layout: Layout, seen: Seen, step: Step, active: Any | None
    ) -> tuple[Any, Any, Any]:
        """(...) c, the size of gradients beside their mean squares, and whether there is c."""
        offset = seen.offset
        if offset is None:
            zeros = ops.zeros(tuple(seen.gradient.shape)[:-2])
            return zeros, zeros, zeros > 0
        if active is not None:
            offset = ops.where(layout.to_lanes(active), offset, 0.0)
        # Squares of what is far from 1 leave 32 bits.
        largest = backend.largest_size(seen.gradient)
        guarded = self.config.guarded and step.metric is not None
        sums = sweep(
            partial(_products, guarded=guarded), layout, {},
            (seen.gradient, offset, step.metric, ops.where(largest > 0, largest, 1.0)),
            rows=0, sums=(3 + guarded,), light=True).sums[0]
        product, *squares = ops.unstack(ops.sum(sums, axis=-1), 3 + guarded)
        norms = squares[0] * squares[1]
        known = norms > 0
        size = ops.ones_like(product)
        if guarded:
            size = ops.square(largest[..., 0, 0]) * squares[0] / squares[2]
        return product * ops.rsqrt(ops.where(known, norms, 1.0)), size, known

    def describe(self, state, shape):
        found = self.inner.describe(state, shape)
        found["global log step size"] = state["log_step_size"]
        if "log learning rate" in found:
            found["log learning rate"] = found["log learning rate"] + state["log_step_size"]
        return found


def _products(
    state: State, given: list[Any], used_lanes: Any, moves: Any | None, *, guarded: bool
) -> Moved:
    """The three products of which the cosine is made, of all blocks or some, and with `guarded` the
    sum of the metric. Neither vector is made in the metric, the root of a root, which the first
    product does without."""
    gradient, way, metric, largest = given
    scaled = gradient / largest
    near, far, sums = scaled, way, []
    if metric is not None:
        root = ops.sqrt(ops.maximum(metric, _SMALLEST_MEAN_SQUARE))
        near, far = scaled / root, way * root
        sums = [block_sums(root, used_lanes)] if guarded else []
    products = [
        block_sums(a * b, used_lanes) for a, b in ((scaled, way), (near, scaled), (far, way))]
    return Moved({}, [], [ops.stack(products + sums)])
