"""What sizes of tensors' steps against each other are worth: page 43.

`KERAS_BACKEND=jax python -m lab.programs.scan_of_sizes SUITE STEPS TASK,TASK,...`: losses of
`default` on tasks of a suite after so many steps, with the steps of some tensors multiplied, or
each by its own alignment, as log ratios to those without; three runs a task, the same for all. A
task compiles once.
"""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np

import lab.programs.unscaled  # noqa: F401 its suite
import problems
from hrnn_opt.checks import Config
from hrnn_opt.files.resolve import resolve
from hrnn_opt.interface import Field
from hrnn_opt.places.layout import block_sums
from hrnn_opt.registry import config_from_dict, network_of, register
from hrnn_opt.rules import alignment
from hrnn_opt.rules.chain import Rule
from train.config import TrainConfig
from train.tasks import Family

EVERY = 200
# Compiling takes longer than running.
QUICKLY = {"xla_cpu_use_fusion_emitters": False}
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
    return {f"alignment_{name}": np.float32(number) for name, number in numbers.items()}


LATER = control(log_delay=math.log(200.0), log_growth_steps=math.log(3000.0))
VARIANTS = {
    "as it is": {},
    **{f"{kind} {sign:+.1f}": sizes(**{kind: sign})
       for kind in ("vector", "first", "last", "depth") for sign in (-0.7, 0.7)},
    **{f"{kind} {sign:+.2f}": sizes(**{kind: sign})
       for kind in ("rows", "columns") for sign in (-0.25, 0.25)},
    "delay 200": control(log_delay=math.log(200.0)),
    "delay 200, growth for 3,000": LATER,
    **{f"tensor gain {gain:g}": {"tensor_gain": np.float32(gain)} for gain in (-1, 0.5, 1, 2, 4)},
}


def main(suite: str, steps: int, numbers: list[int], variants=None) -> None:
    """Print a row for each variant: the mean over tasks, its standard error, and each task."""
    variants = VARIANTS if variants is None else variants
    weights = resolve("default")
    config = weights.config.to_dict()
    rules = [[{"alignment": "tensor_alignment"}.get(name, name), switches]
             for name, switches in config["rules"]]
    network = network_of(config_from_dict({**config, "rules": [*rules, ["sizes", {}]]}))
    meta = {name: jnp.array(array) for name, array in weights.arrays.items()} | {
        "sizes": jnp.zeros(len(KINDS)), "tensor_gain": jnp.zeros(())}
    tasks = list(problems.suite(suite))
    ends: dict[str, list[np.ndarray]] = {name: [] for name in variants}
    for number in numbers:
        train = TrainConfig(
            models=3, learning_rate=(8e-3, 8e-3), run_range=(steps, steps), unroll=EVERY,
            objective_every=EVERY, horizon="unknown")
        family = Family([tasks[number]], network, train)

        def run(meta, runs, family=family):
            runs, _ = jax.lax.scan(
                lambda runs, _: (family.unroll(meta, runs, EVERY)[1], None), runs, None,
                steps // EVERY)
            return family.objective(runs.instance, runs.place) / runs.first_objective

        start, program = (jax.jit(function, compiler_options=QUICKLY)
                          for function in (family.draw, run))
        start = start(jax.random.key(11))
        for name, changed in variants.items():
            losses = np.asarray(program(meta | changed, start))
            ends[name].append(np.log(np.where(np.isfinite(losses), losses, 1.0) + 1e-6))
        print(f"task {number} is done", flush=True)
    for name, of_tasks in ends.items():
        ratios = np.array(of_tasks) - np.array(ends["as it is"])
        means = ratios.mean(1)
        error = means.std(ddof=1) / math.sqrt(len(means)) if len(means) > 1 else math.nan
        print(f"{name:28s} {means.mean():+.3f} ({error:.3f})  {np.round(means, 3)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), [int(number) for number in sys.argv[3].split(",")])
