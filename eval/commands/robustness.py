"""Train from many learning rates and seeds: does the learned optimizer ever diverge?

A run passes when its final training loss is below the loss after 200 steps. Without --rates,
weights of the paper's form are run from initial learning rates 1e-5 to 1e-2, and weights of the
normalized form at 0.01, 0.1, 1 and 3 times their own learning rate. Exit code 1 if a run fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import rich
import rich.table
from absl import flags

from eval.commands import cli
from eval.runs import networks, optimizers
from eval.runs.results import Result, loss_at, shown
from eval.runs.run import Run
from eval.runs.store import Store

if TYPE_CHECKING:
    from hrnn_opt import Pretrained

EARLY = 200
INITIAL_LEARNING_RATES = (1e-5, 1e-4, 1e-3, 1e-2)
MULTIPLES = (0.01, 0.1, 1.0, 3.0)

OPTIONS = flags.FlagValues()
flags.DEFINE_string("weights", "default", "Name or path of the weights.", flag_values=OPTIONS)
flags.DEFINE_list("networks", list(networks.PAPER), f"Some of {', '.join(networks.NETWORKS)}.",
                  flag_values=OPTIONS)
flags.DEFINE_list("rates", None, "Initial learning rates; for weights of the normalized form, "
                  "multiples of their learning rate.", flag_values=OPTIONS)
flags.DEFINE_integer("steps", 10000, "Training steps.", lower_bound=EARLY + 1, flag_values=OPTIONS)
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds.", flag_values=OPTIONS)
cli.define_data_dir(OPTIONS)
cli.define_store(OPTIONS)
cli.define_json(OPTIONS)


def rate_settings(pretrained: Pretrained, rates: list[float] | None) -> list[dict[str, float]]:
    """What to give the optimizer in each run: `initial_learning_rate`s or `learning_rate`s."""
    if not pretrained.takes_log_rates:
        return [{"learning_rate": multiple * pretrained.learning_rate}
                for multiple in rates or MULTIPLES]
    return [{"initial_learning_rate": rate} for rate in rates or INITIAL_LEARNING_RATES]


def passed(result: Result) -> bool:
    """Whether a run went on learning: no NaN, and the loss fell after the first 200 steps."""
    return not result["diverged"] and result["final_training_loss"] < loss_at(result, EARLY)


def main(argv: list[str]) -> int:
    """The command line."""
    cli.no_arguments(argv)
    rates = None if OPTIONS.rates is None else cli.rates(OPTIONS, "rates")
    seeds = cli.integers(OPTIONS, "seeds", 0)
    names = cli.choices(OPTIONS, "networks", networks.NETWORKS)
    pretrained = cli.check_weights(OPTIONS.weights)
    cases = [(name, setting, seed) for name in names
             for setting in rate_settings(pretrained, rates) for seed in seeds]
    # The weights' own rate is left to them: these runs are then those of `table`.
    runs = [Run(name, optimizers.LEARNED, OPTIONS.steps, seed=seed, weights=OPTIONS.weights,
                **{key: rate for key, rate in setting.items() if rate != getattr(pretrained, key)})
            for name, setting, seed in cases]
    results = Store(OPTIONS.store, cli.load_data(OPTIONS)).results(runs, "robustness")
    rows = [
        {"network": name, "seed": seed, "learning_rate": setting.get("learning_rate"),
         "initial_learning_rate": setting.get("initial_learning_rate"),
         "diverged": result["diverged"],
         "early_loss": None if result["diverged"] else loss_at(result, EARLY),
         "final_loss": result["final_training_loss"], "passed": passed(result)}
        for (name, setting, seed), result in zip(cases, results)
    ]
    all_passed = all(row["passed"] for row in rows)
    if OPTIONS.json:
        cli.print_json({"passed": all_passed, "runs": rows})
    else:
        table = rich.table.Table("network", "seed", "rate", f"loss at {EARLY}", "final loss", "")
        for row in rows:
            rate = row["learning_rate"] or row["initial_learning_rate"]
            table.add_row(row["network"], str(row["seed"]), f"{rate:g}",
                          shown(row["early_loss"], missing=""), shown(row["final_loss"]),
                          "passed" if row["passed"] else "FAILED")
        rich.print(table)
    return 0 if all_passed else 1
