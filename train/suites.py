"""From a suite's description to weighted families of problems."""

from __future__ import annotations

from collections import defaultdict

from hrnn_opt.interface import LearnedOptimizer
from problems import Problem, suite
from train.config import TrainConfig
from train.tasks import Family


def weighted_specs(description: str) -> list[tuple[Problem, float]]:
    """The specs of `name*weight+name+...`, each with its weight; a set's weight is shared out.

    Raises:
        ValueError: if a name is unknown or a weight is no positive number.
    """
    specs = []
    for term in description.split("+"):
        name, _, weight = term.partition("*")
        try:
            value = float(weight) if weight else 1.0
        except ValueError:
            value = -1.0
        if not 0 < value < float("inf"):
            raise ValueError(f"`suite` must weight {name!r} by a positive number, got {weight!r}.")
        members = suite(name.strip())
        specs += [(spec, value / len(members)) for spec in members]
    return specs


def families(
    config: TrainConfig, network: LearnedOptimizer
) -> tuple[list[Family], list[float]]:
    """The suite's specs grouped by program, and the probability of each group."""
    groups: dict[object, list[tuple[Problem, float]]] = defaultdict(list)
    for spec, weight in weighted_specs(config.suite):
        groups[spec.program].append((spec, weight))
    members = [Family([spec for spec, _ in group], network, config) for group in groups.values()]
    weights = [sum(weight for _, weight in group) for group in groups.values()]
    return members, [weight / sum(weights) for weight in weights]
