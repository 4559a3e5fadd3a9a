"""What sizes of tensors' steps against each other are worth: page 43.

`KERAS_BACKEND=jax python -m lab.programs.scan_of_sizes SUITE STEPS TASK,TASK,...`: losses of
`default` on tasks of a suite after so many steps, with the steps of some tensors multiplied, or
each by its own alignment, as log ratios to those without; three runs a task, the same for all.
"""

import math
import sys

import jax.numpy as jnp
import numpy as np

import lab.programs.unscaled  # noqa: F401 its suite
from hrnn_opt.checks import Config
from hrnn_opt.files.resolve import resolve
from hrnn_opt.interface import Field
from hrnn_opt.places.layout import block_sums
from hrnn_opt.registry import config_from_dict, network_of, register
from hrnn_opt.rules import alignment
from hrnn_opt.rules.chain import Rule
from lab.programs import scan

# What a tensor is.
KINDS = ("vector", "first", "last", "rows", "columns", "depth")


class SizesConfig(Config):
    """No switches."""

    NAME = "sizes"


@register
class Sizes(Rule):
    """u <- exp(w . what the tensor is) u."""

    Config = SizesConfig

    def __init__(self, inner, config=None, **options):
        super().__init__(inner, config, **options)
        self.sizes = self.add_weight(name="sizes", shape=(len(KINDS),), initializer="zeros")
        self.built = True

    def around(self, layout, state, seen, inner, active):
        step = inner(seen)
        factor = jnp.exp(jnp.array(features(layout.shapes)) @ self.sizes.value)
        return {}, step._replace(size=factor if step.size is None else factor * step.size)


class TensorAlignmentConfig(Config):
    """No switches."""

    NAME = "tensor_alignment"


@register
class TensorAlignment(alignment.Alignment):
    """Alignment, and a factor exp(s_k) of each tensor besides:
    s_k <- s_k + tensor gain / (t + delay) tanh(slope (c_k - c)), with c_k the tensor's cosine."""

    Config = TensorAlignmentConfig

    def __init__(self, inner, config=None, **options):
        super().__init__(inner, config, **options)
        self.tensor_gain = self.add_weight(name="tensor_gain", shape=(), initializer="zeros")

    @property
    def own_fields(self):
        return super().own_fields | {"tensor_log_sizes": Field("tensor", wide=True)}

    def around(self, layout, state, seen, inner, active):
        own, step = super().around(layout, state, seen, inner, active)
        old = state["tensor_log_sizes"]
        cosine, _ = self._cosine(layout, seen, step, active)
        largest = jnp.max(jnp.abs(seen.gradient), axis=(-2, -1), keepdims=True)
        root = jnp.sqrt(jnp.sqrt(jnp.maximum(step.metric, 1e-20)))
        a, b = seen.gradient / jnp.where(largest > 0, largest, 1.0) / root, seen.offset * root
        product, *squares = (
            layout.mean_of_blocks(block_sums(x, layout.used_lanes)) for x in (a * b, a * a, b * b))
        norms = squares[0] * squares[1]
        of_tensor = product * jnp.where(norms > 0, norms, 1.0) ** -0.5
        change = self.tensor_gain.value / (
            own["alignment_steps"][..., None] + jnp.exp(self.alignment_log_delay.value)
        ) * jnp.tanh(self.alignment_slope.value * (of_tensor - cosine[..., None]))
        own["tensor_log_sizes"] = jnp.clip(old + jnp.where(norms > 0, change, 0.0), -3.0, 3.0)
        return own, step._replace(update=layout.to_lanes(jnp.exp(old)) * step.update)


def features(shapes):
    """(K, 6) a row for each tensor."""
    matrices = [k for k, shape in enumerate(shapes) if len(shape) > 1]
    found = np.zeros((len(shapes), len(KINDS)), "float32")
    for k, shape in enumerate(shapes):
        found[k, 5] = k / max(1, len(shapes) - 1) - 0.5
        if len(shape) < 2:
            found[k, 0] = 1.0
            continue
        found[k, 1], found[k, 2] = k == matrices[0], k == matrices[-1]
        found[k, 3] = math.log(math.prod(shape[:-1]) / 32.0)
        found[k, 4] = math.log(shape[-1] / 32.0)
    return found


def sizes(**of_kinds):
    """The meta-parameters that multiply the steps of these kinds."""
    return {"sizes": np.array([of_kinds.get(kind, 0.0) for kind in KINDS], "float32")}


def control(**numbers):
    """Numbers of the rule `alignment`."""
    return {f"alignment_{name}": number for name, number in numbers.items()}


VARIANTS = {
    "as it is": {},
    **{f"{kind} {sign:+.1f}": sizes(**{kind: sign})
       for kind in ("vector", "first", "last", "depth") for sign in (-0.7, 0.7)},
    **{f"{kind} {sign:+.2f}": sizes(**{kind: sign})
       for kind in ("rows", "columns") for sign in (-0.25, 0.25)},
    "delay 200": control(log_delay=math.log(200.0)),
    "delay 200, growth for 3,000": control(
        log_delay=math.log(200.0), log_growth_steps=math.log(3000.0)),
    **{f"tensor gain {gain:g}": {"tensor_gain": gain} for gain in (-1, 0.5, 1, 2, 4)},
}


def main(suite: str, steps: int, numbers: list[int]) -> None:
    """Print the table."""
    weights = resolve("default")
    config = weights.config.to_dict()
    rules = [[{"alignment": "tensor_alignment"}.get(name, name), switches]
             for name, switches in config["rules"]]
    network = network_of(config_from_dict({**config, "rules": [*rules, ["sizes", {}]]}))
    meta = {**weights.arrays, "sizes": np.zeros(len(KINDS), "float32"), "tensor_gain": 0.0}
    scan.show(list(scan.losses(
        network, meta, suite, steps, numbers,
        {name: (1.0, changed) for name, changed in VARIANTS.items()})), "as it is")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), [int(number) for number in sys.argv[3].split(",")])
