"""What a known end of the training is worth to the rule: page 46.

`KERAS_BACKEND=jax python -m lab.programs.scan_of_horizons SUITE STEPS TASK,TASK,...`: losses of
`rule` on tasks of a suite after so many steps, with steps that fall and an average that forgets
towards the end, as log ratios to those without; three runs a task, the same for all.
"""

import sys

import jax.numpy as jnp

import lab.programs.unscaled  # noqa: F401 its suite
from hrnn_opt.checks import Config
from hrnn_opt.files.resolve import resolve
from hrnn_opt.interface import Field
from hrnn_opt.registry import config_from_dict, network_of, register
from hrnn_opt.rules.chain import Rule
from lab.programs import scan

# At which nothing changes but that 1e-6 of the training has a falling rate.
AS_IT_IS = {"cooldown": 1e-6, "lowest": 0.0, "late_power": 2.0, "early_power": 2.0}


class EndConfig(Config):
    """No switches."""

    NAME = "end"


@register
class End(Rule):
    """u <- min(1, lowest + (1 - p) / cooldown) u, with p the share of the training that is done,
    and iterates that count in the average as t^(power - 1), with the early power before the
    cooldown and the late one in it."""

    Config = EndConfig

    def __init__(self, inner, config=None, **options):
        super().__init__(inner, config, **options)
        scan.add_numbers(self, AS_IT_IS)

    @property
    def needs(self):
        return self.inner.needs | {"progress"}

    @property
    def own_fields(self):
        return {"end_steps": Field("model", wide=True)}

    def around(self, layout, state, seen, inner, active):
        step, steps = inner(seen), state["end_steps"] + 1.0
        left = (1.0 - seen.progress) / self.cooldown.value
        power = jnp.where(left < 1.0, self.late_power.value, self.early_power.value)
        factor = jnp.minimum(1.0, self.lowest.value + left)
        return {"end_steps": steps}, step._replace(
            update=factor[..., None, None] * step.update, squares=None,
            weight=power / (steps + power - 1.0))


def end(cooldown, late=2.0, lowest=0.0, early=2.0):
    """The numbers of the rule."""
    return {"cooldown": cooldown, "late_power": late, "lowest": lowest, "early_power": early}


VARIANTS = {
    "as it is": {},
    **{f"power {power:g} throughout": end(1e-6, early=power) for power in (1, 4, 8, 16)},
    **{f"fall over {fall:g}, power {power:g} there": end(fall, power)
       for fall in (0.1, 0.2, 0.5) for power in (2, 4, 8, 16)},
    **{f"fall over 1, power {power:g}": end(1.0, power) for power in (2, 4, 8)},
    **{f"no fall, power {power:g} over the last 0.2": end(0.2, power, lowest=1.0)
       for power in (4, 8, 16)},
}


def main(suite: str, steps: int, numbers: list[int]) -> None:
    """Print the table."""
    weights = resolve("rule")
    config = weights.config.to_dict()
    network = network_of(config_from_dict({**config, "rules": [["end", {}], *config["rules"]]}))
    scan.show(list(scan.losses(
        network, {**weights.arrays, **AS_IT_IS}, suite, steps, numbers,
        {name: (1.0, changed) for name, changed in VARIANTS.items()}, horizon="known")),
        "as it is")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), [int(number) for number in sys.argv[3].split(",")])
