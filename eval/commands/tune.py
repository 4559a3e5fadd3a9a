"""Search the learning rates of hand-designed optimizers: the lowest final training loss, median
over seeds, is best. Results go to a store, so that only what is missing is run.

With --grid_seeds fewer than --seeds, the whole grid is run on the former, and the best rate of each
(network, optimizer, schedule, number of steps) on the others too.
"""

from __future__ import annotations

import rich
import rich.table
from absl import flags

from eval.commands import cli
from eval.runs import networks, optimizers
from eval.runs.grid_search import BASELINES, LEARNING_RATES, best, save
from eval.runs.results import shown
from eval.runs.store import Store

OPTIONS = flags.FlagValues()
flags.DEFINE_list("networks", list(networks.PAPER), f"Some of {', '.join(networks.NETWORKS)}.",
                  flag_values=OPTIONS)
flags.DEFINE_list("optimizers", list(optimizers.BASELINES),
                  f"Some of {', '.join(optimizers.TUNED)}.", flag_values=OPTIONS)
flags.DEFINE_list("schedules", list(optimizers.SCHEDULES),
                  f"Some of {', '.join(optimizers.SCHEDULES)}.", flag_values=OPTIONS)
flags.DEFINE_list("learning_rates", [f"{rate:g}" for rate in LEARNING_RATES], "The grid.",
                  flag_values=OPTIONS)
flags.DEFINE_list("steps", ["1000"], "Numbers of training steps.", flag_values=OPTIONS)
flags.DEFINE_integer("batch_size", 64, "Examples a step.", lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds that the best rate is run on.",
                  flag_values=OPTIONS)
flags.DEFINE_list("grid_seeds", None, "Seeds that the whole grid is run on (default: all).",
                  flag_values=OPTIONS)
flags.DEFINE_string("save", None, "Folder for a summary of the best, a file for each network: "
                    f"{BASELINES.parent.name}/{BASELINES.name} is what `table` reads.",
                    flag_values=OPTIONS)
cli.define_data_dir(OPTIONS)
cli.define_store(OPTIONS)
cli.define_json(OPTIONS)

def main(argv: list[str]) -> None:
    """The command line."""
    cli.no_arguments(argv)
    seeds = cli.integers(OPTIONS, "seeds", 0)
    grid_seeds = seeds if OPTIONS.grid_seeds is None else cli.integers(OPTIONS, "grid_seeds", 0)
    searches = [
        (network, optimizer, schedule, steps)
        for steps in cli.integers(OPTIONS, "steps", 1)
        for network in cli.choices(OPTIONS, "networks", networks.NETWORKS)
        for optimizer in cli.choices(OPTIONS, "optimizers", optimizers.TUNED)
        for schedule in cli.choices(OPTIONS, "schedules", optimizers.SCHEDULES)
    ]
    rates = cli.rates(OPTIONS, "learning_rates")
    store = Store(OPTIONS.store, cli.load_data(OPTIONS))
    records = []
    for search in searches:
        records.append(best(*search, store, learning_rates=rates, seeds=seeds,
                            grid_seeds=grid_seeds, batch_size=OPTIONS.batch_size))
        if OPTIONS.save:
            save(records[-1:], OPTIONS.save)
    if OPTIONS.json:
        cli.print_json(records)
        return
    table = rich.table.Table(
        "network", "optimizer", "schedule", "steps", "rate", "loss", "accuracy",
        title="best learning rates, training loss and test accuracy")
    for record in records:
        table.add_row(
            *(str(record[key]) for key in ("network", "optimizer", "schedule", "steps")),
            f"{record['learning_rate']:.3g}",
            shown(record["loss"]), shown(record["test_accuracy"], ".4f", ""))
    rich.print(table)
