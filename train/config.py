"""Everything that decides a meta-training run, as one validated and serialisable record.

Raises:
    ImportError: if Keras does not run on JAX, in which all that is decided here is written.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from typing import Any

import keras

from hrnn_opt import checks
from hrnn_opt.interface import NetworkConfig
from hrnn_opt.registry import config_from_dict, kinds

if keras.backend.backend() != "jax":
    raise ImportError(
        "meta-training needs Keras's JAX backend (KERAS_BACKEND=jax), got "
        f"{keras.backend.backend()!r}.")

ESTIMATORS = ("tbptt", "full", "es", "pes", "nres", "mix")
META_OPTIMIZERS = ("adam", "adamw", "rmsprop")
HORIZONS = "known", "unknown", "both"
OBJECTIVES = ("log", "plain")
SCHEDULES = ("constant", "cosine")
RUN_LENGTHS = ("exponential", "log_uniform")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One meta-training run.

    Tasks are held in *members* of *models*: the models of a member are unrolled side by side with
    one set of meta-parameters, and each member gives one meta-gradient, which is clipped before all
    are averaged. With an evolution strategy each member has a perturbation of its own.

    Args:
        suite: names of problem suites joined by `+`; one may be weighted, as in `paper*0.5+broad`.
        network: the kind of network, its switches where they differ from the defaults, and the
            rules around it: `{"kind": ..., "rules": [[name, switches], ...]}`; without a kind, of
            the `HierarchicalRNN`.
        start: the meta-parameters to start from: `drawn`, or another of the network's `starts`.
        initial_weights: a weights file to start from instead, or "". It is of the same kind and
            has meta-parameters of the same names and shapes; all other switches are those of
            `network`, and not the file's.
        trainable: a regular expression: the meta-parameters whose whole names it matches are
            trained, the others stay as they are.
        estimator: of the meta-gradient: `tbptt`, `full` (the exact one of whole runs, of one length
            in `run_range` for each meta-step), `es`, `pes`, `nres`, or `mix` (of tbptt and pes, by
            their variance over members).
        perturbation: standard deviation of the meta-parameters' perturbation in es, pes and nres.
        units: what counts as 1 of a meta-parameter, by regular expressions of whole names; 1 where
            none matches. Perturbations and meta-steps are in units, and so are the norms that
            meta-gradients are judged and clipped by.
        members: meta-gradients in an estimate, G.
        models: tasks in a member, M.
        families: problem families drawn for a meta-step.
        unroll: inner steps in a truncation; a multiple of `objective_every`.
        heavy_tailed: draw the truncation as the released program does, round(Exp(200)) + 50 steps,
            in whole multiples of `unroll`, which should be at most 50.
        run_length: how the number of inner steps of a run is drawn: `exponential`,
            round(Exp(run_scale)) + 1 truncations; or `log_uniform` in `run_range`.
        run_scale: mean number of truncations after the first in an exponential run.
        run_range: shortest and longest log-uniform run, in inner steps.
        horizon: what the optimizer is told of a run's length: `known`, the share that is done;
            `unknown`, nothing, as in a `fit` without `num_steps`; `both`, one or the other by run.
        objective: mean over the truncation of the `log` of f / f_0, or of `plain` f / f_0.
        objective_least: what is added to f / f_0 in the log: what falls below it counts no further.
        objective_every: evaluate the objective at every so-many-th step only.
        growth_limit: a run whose objective exceeds this multiple of its start ends early.
        second_derivatives: differentiate through the problem's gradient.
        initial_learning_rate: range of the drawn initial learning rates, where the network
            keeps them.
        learning_rate: range of a run's learning rate, log-uniform.
        learning_rate_schedule: over a run: `constant`, or `cosine` to 0.
        meta_optimizer: `adam`, `adamw` with a decay of 1e-4, or `rmsprop` with the released
            program's settings.
        meta_learning_rate: its rate.
        meta_schedule: over the whole run: `constant`, or `cosine` to 0.
        warmup: meta-steps over which the rate rises from 0.
        clip_entry: bound on each entry of a member's meta-gradient.
        norm_limit: a member whose meta-gradient has a larger norm is left out of the mean, and
            counted; 0 for none.
        clip_member: bound on the norm of a member's meta-gradient; 0 for none.
        average: decay of the average of meta-parameters that is validated and saved; 0 for none.
        steps: meta-steps.
        seed: of everything random.

    Raises:
        ValueError: naming the argument, what came and what is allowed.
    """

    suite: str = "released"
    network: dict[str, Any] = dataclasses.field(default_factory=dict)
    start: str = "drawn"
    initial_weights: str = ""
    trainable: str = ".*"
    estimator: str = "tbptt"
    perturbation: float = 0.01
    units: dict[str, float] = dataclasses.field(default_factory=dict)
    members: int = 4
    models: int = 4
    families: int = 2
    unroll: int = 50
    heavy_tailed: bool = False
    run_length: str = "log_uniform"
    run_scale: float = 40.0
    run_range: tuple[int, int] = (200, 5000)
    horizon: str = "known"
    objective: str = "log"
    objective_least: float = 1e-6
    objective_every: int = 1
    growth_limit: float = 1e6
    second_derivatives: bool = True
    initial_learning_rate: tuple[float, float] = (1e-6, 1e-2)
    learning_rate: tuple[float, float] = (1.0, 1.0)
    learning_rate_schedule: str = "constant"
    meta_optimizer: str = "adam"
    meta_learning_rate: float = 1e-3
    meta_schedule: str = "cosine"
    warmup: int = 20
    clip_entry: float = 1e4
    norm_limit: float = 0.0
    clip_member: float = 1.0
    average: float = 0.98
    steps: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if isinstance(getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))

        check = functools.partial(checks.check, self)

        def ordered(name: str, least: float) -> None:
            value = getattr(self, name)
            ok = (isinstance(value, tuple) and len(value) == 2 and least <= value[0] <= value[1]
                  and value[1] < float("inf"))
            check(name, ok, f"a (low, high) range from at least {least}")

        for name, allowed in (
            ("estimator", ESTIMATORS), ("meta_optimizer", META_OPTIMIZERS),
            ("objective", OBJECTIVES), ("horizon", HORIZONS), ("learning_rate_schedule", SCHEDULES),
            ("meta_schedule", SCHEDULES), ("run_length", RUN_LENGTHS),
        ):
            check(name, getattr(self, name) in allowed, f"one of {allowed}")
        for name in ("members", "models", "families", "unroll", "objective_every", "steps"):
            value = getattr(self, name)
            check(name, isinstance(value, int) and value >= 1, "an integer of at least 1")
        check("start", self.start == "drawn" or not self.initial_weights,
              "'drawn' with initial_weights")
        check("unroll", self.unroll % self.objective_every == 0,
              f"a multiple of objective_every={self.objective_every}")
        for name in ("perturbation", "run_scale", "growth_limit", "meta_learning_rate",
                     "clip_entry", "objective_least"):
            check(name, getattr(self, name) > 0, "a positive number")
        check("warmup", self.warmup >= 0, "at least 0")
        check("clip_member", self.clip_member >= 0, "at least 0")
        check("average", 0 <= self.average < 1, "from 0 to less than 1")
        ordered("run_range", 1)
        ordered("initial_learning_rate", 1e-30)
        ordered("learning_rate", 1e-30)
        check("members", self.members > 1 or self.estimator != "mix",
              "at least 2 with estimator='mix', which needs their variance")
        check("units", isinstance(self.units, dict), "a dict")
        for name, expressions in (("trainable", [self.trainable]), ("units", self.units)):
            for expression in expressions:
                try:
                    re.compile(expression)
                except re.error as error:
                    raise ValueError(
                        f"`{name}` must be a regular expression, got {expression!r} ({error})."
                    ) from None
        check("units", all(checks.is_number(unit) and unit > 0 for unit in self.units.values()),
              "positive numbers by regular expressions")
        kind = kinds()[self.network_config.kind]
        check("horizon", self.horizon == "known" or "horizon" not in kind.needs,
              f"'known' for the kind {kind.Config.NAME!r}, which reads the number of steps")
        check("start", self.start in (starts := kinds()[self.network_config.kind].starts),
              f"one of {sorted(starts)} for this network")

    def trains(self, name: str) -> bool:
        """Whether the meta-parameter of this name is trained."""
        return re.fullmatch(self.trainable, name) is not None

    def unit(self, name: str) -> float:
        """What counts as 1 of the meta-parameter of this name."""
        return next(
            (unit for pattern, unit in self.units.items() if re.fullmatch(pattern, name)), 1.0)

    @property
    def network_config(self) -> NetworkConfig:
        """The switches of the network that is trained."""
        return config_from_dict(dict(self.network))

    def to_json(self) -> str:
        """The record as JSON, one field a line."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """What `to_json` wrote.

        Raises:
            ValueError: if a field does not exist or is not allowed.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the training config is no JSON: {error}.") from None
        if not isinstance(values, dict):
            raise ValueError(f"the training config must be a dict, got {type(values).__name__}.")
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"the training config has fields that do not exist: {unknown}.")
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(
                f"the training config has a value of another type: {error}.") from None
