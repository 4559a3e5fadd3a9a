"""What parts of learned numbers are worth, each put into the rule: page 48.

`KERAS_BACKEND=jax python -m lab.programs.parts WEIGHTS SUITE STEPS TASK,TASK,...`: log ratios of
the losses with some groups of the numbers to those of the rule, three runs a task, the same for
all.
`KERAS_BACKEND=jax python -m lab.programs.parts WEIGHTS keep GROUP,GROUP FILE` writes weights with
these groups, and the rule's numbers in place of the others.
"""

import dataclasses
import sys
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

import lab.programs.ten_kinds
import lab.programs.unscaled  # noqa: F401 their suites
from hrnn_opt import Pretrained
from hrnn_opt.files.resolve import resolve
from lab.programs import scan

GROUPS = {
    "gates": ("gates", "input_gates"), "shortcut": ("shortcut",),
    "decays": ("average_logits", "scale_logit"),
    "sizes": ("size_weights",),
    "shrinkage": ("shrinkage_weights", "log_shrinkage", "log_early_shrinkage")}
SETS = (
    "", "gates", "shrinkage", "sizes", "gates,shortcut,decays", "gates,shrinkage",
    "gates,shrinkage,sizes", "gates,shrinkage,shortcut", "gates,shrinkage,decays",
    "gates,shortcut,decays,shrinkage", "gates,shortcut,decays,sizes", ",".join(GROUPS))


def of_rule(groups: Collection[str], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The rule's numbers, of these arrays, of all groups but these."""
    rule = resolve("default").arrays
    # `default` has no gates that read inputs, and 6 units; gates of 0 are the rule's.
    return {name: np.asarray(rule[name]) if name in rule and "gates" not in name
            else np.zeros_like(arrays[name])
            for group, names in GROUPS.items() if group not in groups
            for name in names if name in arrays}


def main(path: str, *rest: str) -> None:
    """One of the two commands."""
    weights = Pretrained.load(path)
    if rest[0] == "keep":
        kept = {**weights.arrays, **of_rule(rest[1].split(","), weights.arrays)}
        dataclasses.replace(weights, arrays=kept).save(rest[2])
        return
    suite, steps, numbers = rest
    variants = {
        groups or "the rule": (1.0, of_rule(groups.split(","), weights.arrays)) for groups in SETS}
    ends = list(scan.losses(
        weights.network(), weights.arrays, suite, int(steps),
        [int(number) for number in numbers.split(",")], variants))
    scan.show(ends, "the rule")


if __name__ == "__main__":
    main(*sys.argv[1:])
