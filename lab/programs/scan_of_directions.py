"""What other directions of the rule's steps are worth: page 45.

`KERAS_BACKEND=jax python -m lab.programs.scan_of_directions SUITE STEPS TASK,TASK,...`: losses of
`rule` on tasks of a suite after so many steps, with its direction made in other ways, as log ratios
to those without; three runs a task, the same for all.
"""

import sys

import jax
import jax.numpy as jnp

import lab.programs.unscaled  # noqa: F401 its suite
from hrnn_opt.checks import Config
from hrnn_opt.files.resolve import resolve
from hrnn_opt.interface import Field, Step
from hrnn_opt.networks import accumulators, celo2, direction
from hrnn_opt.places.layout import block_sums
from hrnn_opt.registry import config_from_dict, network_of, register
from lab.programs import scan

# What may be changed, at what leaves the rule's direction as it is.
AS_IT_IS = {
    "power": 0.5, "belief": 0.0, "sharpness": 1.0, "ten": 0.0, "hundred": 0.0, "caution": 0.0,
    "orthogonal": 0.0, "signal": 0.0, "slow_scale": 0.0}


class DirectionsConfig(Config):
    """No switches."""

    NAME = "directions"


@register
class Directions(direction.Direction):
    """Of g, its averages m_10 and m_100 over some ten and hundred steps and its mean squares v:

    d = (asinh(sharpness x) / sharpness + ten x_10 + hundred x_100) caution signal
        + orthogonal O(m_10)

    with x = g / (v + kappa V)^power V^(power - 1/2), v of g - belief m_10; entries where x and m_10
    differ in sign times 1 - caution; |x_10|^signal; O of orthonormal rows or columns, of RMS 1; and
    v mixed with that of a decay of 0.999 by `slow_scale`.
    """

    Config = DirectionsConfig

    def __init__(self, config=None, seed=0, **options):
        super().__init__(config, seed, **options)
        scan.add_numbers(self, AS_IT_IS)

    @property
    def fields(self):
        return super().fields | {"averages": Field(leading=(2,)), "slow_square": Field()}

    def advance(self, layout, state, seen, active):
        gradient, steps = accumulators.clipped(seen.gradient), state["tensor_steps"]
        decays = [accumulators.decay(steps, limit) for limit in (
            jax.nn.sigmoid(self.average_logit.value), 0.9, 0.99,
            jax.nn.sigmoid(self.scale_logit.value), 0.999)]
        of_tensor = accumulators.tensor_mean_square(
            layout, state["tensor_mean_square"], gradient, decays[3])
        floor = layout.to_lanes(of_tensor * accumulators.shrinkage(
            steps, self.log_shrinkage, self.log_early_shrinkage))
        b, ten, hundred, c, slow = (layout.to_lanes(d) for d in decays)
        average = b * state["average"] + (1.0 - b) * gradient
        averages = jnp.stack([
            d * old + (1.0 - d) * gradient
            for d, old in zip((ten, hundred), state["averages"])])
        square = jnp.square(gradient - self.belief.value * state["averages"][0])
        mean_square = c * state["mean_square"] + (1.0 - c) * square
        slow_square = slow * state["slow_square"] + (1.0 - slow) * square
        share = self.slow_scale.value
        scale = (1.0 - share) * mean_square + share * slow_square
        unit = layout.to_lanes(of_tensor) + accumulators.EPSILON
        divisor = jnp.exp(-self.power.value * jnp.log(
            (scale + floor + accumulators.EPSILON) / unit)) / jnp.sqrt(unit)
        x, x_10, x_100 = (m * divisor for m in (average, *averages))
        sharp = self.sharpness.value
        update = jnp.arcsinh(sharp * x) / sharp
        update = update + self.ten.value * x_10 + self.hundred.value * x_100
        update = update * jnp.where(update * averages[0] < 0, 1.0 - self.caution.value, 1.0)
        update = update * jnp.exp(
            0.5 * self.signal.value * jnp.log(jnp.square(x_10) + 1e-4))
        update = update + self.orthogonal.value * layout.flatten(
            [orthogonal(m, shape) for m, shape in zip(
                layout.unflatten(averages[0]), layout.shapes)])
        return {
            "average": average, "averages": averages, "mean_square": mean_square,
            "slow_square": slow_square, "tensor_steps": steps + 1.0,
            "tensor_mean_square": of_tensor,
        }, Step(update, squares=block_sums(jnp.square(update), layout.used_lanes),
                metric=mean_square)


def orthogonal(tensor, shape):
    """(..., *shape) a matrix's nearest with orthonormal rows or columns, of RMS 1; vectors as 0."""
    if len(shape) < 2:
        return jnp.zeros_like(tensor)
    matrix = tensor.reshape(*tensor.shape[:-len(shape)], -1, shape[-1])
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = celo2.orthogonal_factor(jnp.swapaxes(matrix, -1, -2) if tall else matrix)
    x = x * jnp.sqrt(jnp.float32(x.shape[-1]))
    return (jnp.swapaxes(x, -1, -2) if tall else x).reshape(tensor.shape)


VARIANTS = {
    "as it is": {},
    **{f"power {p:g}": {"power": p} for p in (0.35, 0.45, 0.55)},
    **{f"belief {b:g}": {"belief": b} for b in (0.5, 1.0)},
    **{f"sharpness {s:g}": {"sharpness": s} for s in (0.2, 5.0)},
    **{f"newest decay {d:g}": {"average_logit": float(jnp.log(d / (1 - d)))}
       for d in (0.01, 0.5, 0.7, 0.9)},
    **{f"decay of squares {d:g}": {"scale_logit": float(jnp.log(d / (1 - d)))}
       for d in (0.95, 0.999)},
    "half of squares at 0.999": {"slow_scale": 0.5},
    **{f"of ten steps {w:+g}": {"ten": w} for w in (-0.5, 0.5, 1.5)},
    **{f"of a hundred steps {w:+g}": {"hundred": w} for w in (-0.5, 0.5, 1.5)},
    **{f"caution {q:g}": {"caution": q} for q in (0.5, 1.0)},
    **{f"signal {q:g}": {"signal": q} for q in (-0.2, 0.2, 0.5)},
    **{f"orthogonal {w:g}": {"orthogonal": w} for w in (0.2, 0.5, 1.0, 3.0)},
    **{f"shrinkage {k:g}": {"log_shrinkage": float(jnp.log(k))} for k in (1e-3, 1e-2)},
}


def main(suite: str, steps: int, numbers: list[int]) -> None:
    """Print the table."""
    weights = resolve("rule")
    network = network_of(config_from_dict({**weights.config.to_dict(), "kind": "directions"}))
    meta = {**weights.arrays, **AS_IT_IS}
    scan.show(list(scan.losses(
        network, meta, suite, steps, numbers,
        {name: (1.0, changed) for name, changed in VARIANTS.items()})), "as it is")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), [int(number) for number in sys.argv[3].split(",")])
