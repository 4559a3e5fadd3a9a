"""What sizes of tensors' steps against each other are worth: page 43.

`KERAS_BACKEND=jax python -m lab.programs.scan_of_sizes STEPS TASK,TASK,...`: losses of `default` on
tasks of `small_real_valid` after so many steps, with the steps of some tensors multiplied, as log
ratios to those without; three runs a task, the same for all. A task compiles once.
"""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np

import problems
from hrnn_opt.checks import Config
from hrnn_opt.files.resolve import resolve
from hrnn_opt.registry import config_from_dict, network_of, register
from hrnn_opt.rules.chain import Rule
from train.config import TrainConfig
from train.tasks import Family

EVERY = 200
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
}


def main(steps: int, numbers: list[int], variants=None) -> None:
    """Print a row for each variant: the mean over tasks, its standard error, and each task."""
    variants = VARIANTS if variants is None else variants
    weights = resolve("default")
    config = weights.config.to_dict()
    rules = config["rules"]
    network = network_of(config_from_dict({**config, "rules": [*rules, ["sizes", {}]]}))
    meta = {name: jnp.array(array) for name, array in weights.arrays.items()} | {
        "sizes": jnp.zeros(len(KINDS))}
    tasks = list(problems.suite("small_real_valid"))
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

        start, program = jax.jit(family.draw)(jax.random.key(11)), jax.jit(run)
        for name, changed in variants.items():
            losses = np.asarray(program(meta | changed, start))
            ends[name].append(np.log(np.where(np.isfinite(losses), losses, 1.0) + 1e-6))
    for name, of_tasks in ends.items():
        ratios = np.array(of_tasks) - np.array(ends["as it is"])
        means = ratios.mean(1)
        error = means.std(ddof=1) / math.sqrt(len(means)) if len(means) > 1 else math.nan
        print(f"{name:28s} {means.mean():+.3f} ({error:.3f})  {np.round(means, 3)}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), [int(number) for number in sys.argv[2].split(",")])
