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
from hrnn_opt.rules import readings
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
# Of what is read in the target, and in the logs of gain and decay, either way.
_BOUNDS_OF_READ = (0.1, 2.0, 2.0)


@dataclasses.dataclass(frozen=True)
class AlignmentConfig(Config):
    """Switches of the rule; what it steers by is among the meta-parameters.

    Args:
        guarded: whether steps grow the less, the smaller gradients are beside their running mean
            squares.
        reads: whether target, gain and decay change with what is read of the run (`readings.py`).

    Raises:
        ValueError: naming the argument, what came and what is allowed.
    """

    guarded: bool = False
    reads: bool = False

    NAME: ClassVar[str] = "alignment"

    def __post_init__(self) -> None:
        for name in ("guarded", "reads"):
            check(self, name, isinstance(getattr(self, name), bool), "True or False")


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

    With `reads`, R (6, 3) weighs the readings r of the run: 0.1 tanh(r . R_0) is added to the
    target, and gain and decay have the factors exp(2 tanh(r . R_1)) and exp(2 tanh(r . R_2)). R
    starts at 0.
    """

    Config = AlignmentConfig

    def __init__(self, inner, config=None, **options):
        super().__init__(inner, config, **options)
        for name, value in START.items():
            setattr(self, f"alignment_{name}", self.add_weight(
                name=f"alignment_{name}", shape=(), initializer=keras.initializers.Constant(value)))
        if self.config.reads:
            self.alignment_reads = self.add_weight(
                name="alignment_reads", shape=(readings.READINGS, 3), initializer="zeros")

    @property
    def needs(self):  # type: ignore[override]
        return self.inner.needs | {"offset"}

    @property
    def own_fields(self):
        # What is steered by must have been moved.
        field = Field("model", wide=True, of_moves=True)
        own = {"alignment_steps": field, "log_step_size": field}
        if self.config.reads:
            own["alignment_observed"] = dataclasses.replace(field, leading=(readings.KEPT,))
        return own

    def around(self, layout, state, seen, inner, active):
        step = inner(seen)
        factor = ops.exp(state["log_step_size"])[..., None, None]
        observed, known = self._observed(layout, seen, step, active)
        steps, own = state["alignment_steps"] + 1.0, {}
        target, gain, decay = self.alignment_target, self.alignment_gain, self.alignment_decay
        if self.config.reads:
            old = state["alignment_observed"]
            own["alignment_observed"] = kept = ops.where(
                known, readings.observe(old, observed), old)
            more, log_gain, log_decay = self._read(kept, state["log_step_size"])
            target, gain, decay = (
                target + more, gain * ops.exp(log_gain), decay * ops.exp(log_decay))
        push = ops.tanh(self.alignment_slope * (observed.cosine - target))
        if self.config.guarded:
            push = ops.where(push > 0, push * ops.minimum(observed.size, 1.0), push)
        growth_steps = ops.exp(self.alignment_log_growth_steps)
        delay = ops.exp(self.alignment_log_delay)
        waning = ops.where(push > 0, growth_steps, ops.exp(self.alignment_log_steps))
        change = (gain / ((steps + delay) * (1.0 + steps / waning)) * push
                  - decay / (steps + growth_steps))
        own["alignment_steps"] = steps
        own["log_step_size"] = ops.clip(
            state["log_step_size"] + ops.where(known, change, 0.0),
            -LOG_STEP_SIZE_BOUND, LOG_STEP_SIZE_BOUND)
        return own, step._replace(
            update=factor * step.update, squares=None,
            ahead=None if step.ahead is None else factor * step.ahead)

    def _read(self, kept: Any, log_step_size: Any) -> list[Any]:
        """(...) what is read in the target, and in the logs of gain and decay."""
        read = ops.tensordot(
            ops.transpose(self.alignment_reads), readings.readings(kept, log_step_size), 1)
        return [bound * ops.tanh(number)
                for bound, number in zip(_BOUNDS_OF_READ, ops.unstack(read, 3))]

    def _observed(
        self, layout: Layout, seen: Seen, step: Step, active: Any | None
    ) -> tuple[readings.Observed, Any]:
        """What there is to observe, and (...) whether there is c."""
        offset = seen.offset
        if offset is None:
            zeros = ops.zeros(tuple(seen.gradient.shape)[:-2])
            return readings.Observed(zeros + 1.0, zeros, zeros, zeros), zeros > 0
        if active is not None:
            offset = ops.where(layout.to_lanes(active), offset, 0.0)
        # Squares of what is far from 1 leave 32 bits.
        largest = backend.largest_size(seen.gradient)
        largest = ops.where(largest > 0, largest, 1.0)
        sized = (self.config.guarded or self.config.reads) and step.metric is not None
        sums = sweep(
            partial(_products, sized=sized), layout, {},
            (seen.gradient, offset, step.metric, largest),
            rows=0, sums=(3 + sized,), light=True).sums[0]
        product, *squares = ops.unstack(ops.sum(sums, axis=-1), 3 + sized)
        norms = squares[0] * squares[1]
        known = norms > 0
        largest, size = largest[..., 0, 0], ops.ones_like(product)
        if sized:
            size = largest * (largest * squares[0] / squares[2])
        cosine = product * ops.rsqrt(ops.where(known, norms, 1.0))
        return readings.Observed(largest, squares[0], size, cosine), known

    def describe(self, state, shape):
        found = self.inner.describe(state, shape)
        found["global log step size"] = state["log_step_size"]
        if "log learning rate" in found:
            found["log learning rate"] = found["log learning rate"] + state["log_step_size"]
        return found


def _products(
    state: State, given: list[Any], used_lanes: Any, moves: Any | None, *, sized: bool
) -> Moved:
    """The three products of which the cosine is made, of all blocks or some, and with `sized` the
    sum of the metric. Neither vector is made in the metric, the root of a root, which the first
    product does without."""
    gradient, way, metric, largest = given
    scaled = gradient / largest
    near, far, sums = scaled, way, []
    if metric is not None:
        root = ops.sqrt(ops.maximum(metric, _SMALLEST_MEAN_SQUARE))
        near, far = scaled / root, way * root
        sums = [block_sums(root, used_lanes)] if sized else []
    products = [
        block_sums(a * b) for a, b in ((scaled, way), (near, scaled), (far, way))]
    return Moved({}, [], [ops.stack(products + sums)])
