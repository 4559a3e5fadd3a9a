"""What weight decay, a moving average and early stopping do for the test accuracy of a learned
optimizer on MNIST's networks.

    as it comes   no argument given
    decay D       weight_decay=D of Keras's optimizers
    average M     use_ema=True, ema_momentum=M: the moving average is evaluated

Each is shown where training ends, and stopped early: at the point of the curve with the highest
accuracy on one half of the test set, seen on the other half; both ways round, and their mean. So no
image both chooses a point and counts. Points are at 50, 100, 200, 500 and 1,000 steps, and at every
thousand from there. Beside them stands the hand-designed optimizer of --baselines whose tuned
training loss is lowest, and the one whose test accuracy is highest, which favours it.

--out gets accuracy.md, accuracy.json and accuracy.png.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from absl import flags

from eval.commands import cli, pages
from eval.runs import grid_search, networks, optimizers
from eval.runs.data import Data
from eval.runs.results import Result, shown
from eval.runs.run import Run
from eval.runs.store import Store
from eval.runs.workers import Workers

NETWORKS = ("mlp_relu", "mlp_sigmoid", "mlp_deep_tanh", "rows_gru")
DECAYS = (0.003, 0.01, 0.03, 0.1)
MOMENTUM = 0.999
AS_IT_COMES = "as it comes"

OPTIONS = flags.FlagValues()
flags.DEFINE_string("weights", "rule", "A name, or the path of a weights file.",
                    flag_values=OPTIONS)
flags.DEFINE_list("networks", list(NETWORKS), f"Some of {', '.join(networks.NETWORKS)}.",
                  flag_values=OPTIONS)
flags.DEFINE_integer("steps", 10_000, "Of each run.", lower_bound=50, flag_values=OPTIONS)
flags.DEFINE_integer("seeds", 3, "Runs of each.", lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_integer("processes", 1, "Runs at a time.", lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_string("baselines", str(grid_search.BASELINES), "Folder that `tune --save` wrote.",
                    flag_values=OPTIONS)
flags.DEFINE_string("out", "runs/accuracy", "Folder for accuracy.md, .json and .png.",
                    flag_values=OPTIONS)
cli.define_data_dir(OPTIONS)
cli.define_store(OPTIONS)
cli.define_json(OPTIONS)


def settings() -> dict[str, tuple[tuple[str, Any], ...]]:
    """The arguments of each variant, by its name."""
    return {
        AS_IT_COMES: (),
        **{f"decay {decay:g}": (("weight_decay", decay),) for decay in DECAYS},
        f"average {MOMENTUM:g}": (("use_ema", True), ("ema_momentum", MOMENTUM))}


def stopped(result: Result) -> tuple[float, float]:
    """The accuracy where one half of the test set says to stop, on the other half, and the step;
    the mean of both ways round."""
    points = np.array(result["accuracy_curve"])
    chosen = points[:, 1:].argmax(axis=0)
    return (float((points[chosen[0], 2] + points[chosen[1], 1]) / 2),
            float(points[chosen, 0].mean()))


def measure(network: str, weights: str, steps: int, seeds: int, store: Store) -> dict[str, Any]:
    """By variant: of each seed `losses` (None: diverged), `accuracies`, `stopped` and `stops`."""
    runs = {name: [
        Run(network, optimizers.LEARNED, steps, seed=seed, weights=weights, options=options,
            accuracies=True) for seed in range(seeds)] for name, options in settings().items()}
    store.results([run for of_one in runs.values() for run in of_one], network)
    found = {}
    for name, of_one in runs.items():
        results = store.results(of_one)
        early = [(None, None) if result["diverged"] else stopped(result) for result in results]
        found[name] = {
            "losses": [result["final_training_loss"] for result in results],
            "accuracies": [result["test_accuracy"] for result in results],
            "stopped": [accuracy for accuracy, _ in early], "stops": [step for _, step in early]}
    return found


def tuned(network: str, steps: int, data: Data, baselines: str) -> list[dict[str, Any]]:
    """Of the tuned optimizers that are known, that of the lowest loss and that of the highest
    accuracy; one, if they are the same."""
    known = [record for record in grid_search.known(network, steps, data, baselines)
             if record["loss"] is not None]
    if not known:
        return []
    best = [min(known, key=lambda record: record["loss"]),
            max(known, key=lambda record: record["test_accuracy"])]
    keys = ("optimizer", "schedule", "learning_rate", "loss", "test_accuracy")
    return [{key: record[key] for key in keys} for record in best[:1 if best[0] is best[1] else 2]]


def gains(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By variant, for `accuracies` and `stopped`: the mean over networks of the medians' difference
    to the accuracy of the weights as they come, at the end."""
    def middle(values: list[float | None]) -> float:
        return median(0.0 if value is None else value for value in values)

    start = {name: middle(of_one[AS_IT_COMES]["accuracies"]) for name, of_one in found.items()}
    return {variant: {key: float(np.mean([
        middle(of_one[variant][key]) - start[name] for name, of_one in found.items()]))
        for key in ("accuracies", "stopped")} for variant in settings()}


def markdown(record: dict[str, Any], command: str) -> str:
    """The report as a page."""
    parts = [f"# Test accuracy of `{record['weights']}`, {record['steps']:,} steps",
             f"`{command}`", (
        "Medians over seeds, and the lowest and highest. Stopped early: at the point that is best "
        "on one half of the test set, seen on the other half."),
        "## Over all networks, beside as it comes", pages.table(
            ["", "at the end", "stopped early"],
            [[name, *(f"{100 * gain[key]:+.2f} %" for key in ("accuracies", "stopped"))]
             for name, gain in record["gains"].items()])]
    for network, found in record["networks"].items():
        lines = [[name, _spread(one["losses"], "#.3g"), _spread(one["accuracies"], ".4f"),
                  _spread(one["stopped"], ".4f"), _spread(one["stops"], ",.0f")]
                 for name, one in found.items()]
        lines += [[f"{one['optimizer']}, {one['schedule']}, {one['learning_rate']:g} (tuned)",
                   shown(one["loss"]), shown(one["test_accuracy"], ".4f"), "-", "-"]
                  for one in record["tuned"][network]]
        parts += [f"## {network}", pages.table(
            ["", "training loss", "test accuracy", "stopped early", "at step"], lines)]
    parts.append("![Test errors](accuracy.png)")
    return "\n\n".join(parts) + "\n"


def _spread(values: list[float | None], form: str) -> str:
    if None in values:
        return "diverged"
    low, middle, high = (shown(y, form) for y in (min(values), median(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def plot(record: dict[str, Any], path: Path) -> None:
    """Test errors at the end, of each variant on each network, with those of tuned optimizers."""
    from eval.figures import pictures

    names = list(settings())
    figure, axes = pictures.panels(1, len(record["networks"]), width=2.6, height=3.0)
    for axis, (network, found) in zip(axes.flat, record["networks"].items()):
        for key, colour, mark in (("accuracies", pictures.VERMILION, "o"),
                                  ("stopped", pictures.PURPLE, "s")):
            for place, name in enumerate(names):
                errors = [100 * (1 - y) for y in found[name][key] if y is not None]
                axis.plot([place] * len(errors), errors, mark, color=colour, alpha=0.7,
                          label={"accuracies": "at the end", "stopped": "stopped early"}[key]
                          if not place else None)
        for one in record["tuned"][network][:1]:
            axis.axhline(100 * (1 - one["test_accuracy"]), color=pictures.GREY, linestyle="--",
                         label="lowest tuned loss")
        axis.set_xticks(range(len(names)), names, rotation=60, ha="right")
        axis.set_title(network)
    axes[0, 0].set_ylabel("test error, %")
    axes[0, 0].legend(frameon=False, fontsize=7)
    pictures.save(figure, path)


def command(options: flags.FlagValues) -> str:
    """The command that gives the same."""
    parts = [f"KERAS_BACKEND=jax python -m eval accuracy --data_dir MNIST "
             f"--weights {options.weights} --steps {options.steps} --seeds {options.seeds}"]
    if tuple(options.networks) != NETWORKS:
        parts.append(f"--networks {','.join(options.networks)}")
    return " ".join(parts)


def main(argv: list[str]) -> None:
    """The command line."""
    cli.no_arguments(argv)
    names = cli.choices(OPTIONS, "networks", networks.NETWORKS)
    cli.check_weights(OPTIONS.weights)
    data = cli.load_data(OPTIONS)
    with Workers(OPTIONS.processes, Path(OPTIONS.store) / "compiled") as workers:
        store = Store(OPTIONS.store, data, workers)
        found = {name: measure(name, OPTIONS.weights, OPTIONS.steps, OPTIONS.seeds, store)
                 for name in names}
    record = {
        "weights": OPTIONS.weights, "steps": OPTIONS.steps, "seeds": OPTIONS.seeds,
        "gains": gains(found), "networks": found,
        "tuned": {name: tuned(name, OPTIONS.steps, data, OPTIONS.baselines) for name in names}}
    pages.publish("accuracy", record, markdown(record, command(OPTIONS)), plot, OPTIONS)
