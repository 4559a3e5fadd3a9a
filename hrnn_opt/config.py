"""The switches of the hierarchical RNN: everything that decides shapes and the form of the step."""

from __future__ import annotations

import dataclasses
from typing import Any

STEP_SIZES = ("learned", "normalized")
RELATIVE_LEARNING_RATES = ("model", "tensor", "off")


def check(config: Any, name: str, ok: Any, allowed: str) -> None:
    """One line of a config's validation.

    Raises:
        ValueError: unless ok, naming the argument, what came and what is allowed.
    """
    if not ok:
        raise ValueError(f"`{name}` must be {allowed}, got {getattr(config, name)!r}.")


def is_number(value: Any, kinds: type | tuple[type, ...]) -> bool:
    """Whether a value is of these kinds of numbers; True and False are none."""
    return isinstance(value, kinds) and not isinstance(value, bool)


@dataclasses.dataclass(frozen=True)
class HierarchicalRNNConfig:
    """One validated set of the switches, each named after what the paper's ablations call it.

    The defaults are the paper's optimizer (Wichrowska et al. 2017, section 3) without lookahead.

    Args:
        parameter_units: hidden size of the Parameter RNN, at least 1.
        tensor_units: hidden size of the Tensor RNN; 0 leaves the level out.
        global_units: hidden size of the Global RNN; 0 leaves the level out. Needs the Tensor RNN.
        time_scales: number of gradient averages (section 3.3.2), 1 to 8; 1 turns averaging off.
        lookahead: take the gradient at an attended location apart from the parameters
            (section 3.3.1).
        step_size: `"learned"`, the paper's step of exp(log learning rate) times a direction of unit
            RMS (section 3.3.4); or `"normalized"`, where the whole update of a tensor has unit RMS
            and its size is the caller's `learning_rate`.
        update_scale_decay: with `step_size="normalized"`, decay of the running mean square by which
            a tensor's update is scaled; at least 0, below 1. 0 gives every single update unit RMS;
            above, an update may be smaller than the ones before it.
        width_exponent: with `step_size="normalized"`, updates of a tensor whose units have n inputs
            (the product of its axes but the last; vectors not counted) are multiplied by
            (n / 256)^-width_exponent; at least 0, below 1.
        bounded_updates: with `update_scale_decay`, no single update has an RMS above 1 either:
            after many small ones, a large one is not taken at its size.
        tensor_step_size: with `step_size="normalized"`, the Tensor RNN decides a factor of its
            tensor's updates, from 1/8 to 8.
        averaging: share of the running average of all iterates in the location at which gradients
            are taken; at least 0, below 1. The average is then what is trained (schedule-free
            learning, Defazio et al. 2024): its noise falls without the learning rate falling. 0
            for none. Not together with lookahead.
        alignment_control: with `step_size="normalized"` and averaging, all updates have a factor
            that grows or falls by how gradients are aligned with the way from the fast iterate to
            the average, in the metric of the steps.
        rotation_limit: matrices (all axes of a tensor but the last, by the last) are turned to the
            axes of their gradients' second moments on their way into the network, rows and columns
            each if they are at least 2 and at most so many, and updates back; 0 to 8192. 0 for
            none.
        dynamic_output_scale: off, the step is 2 sigmoid(read-out) times the raw direction, with no
            log learning rate kept. Only for `step_size="learned"`.
        learnable_input_decay: off, the momentum decay is the constant 0.89.
        learnable_scale_decay: off, the mean-square decay is the constant 0.93.
        relative_log_mean_squares: feed log mean squares, relative to their mean over time scales.
        gradient_products: feed the products of scaled averages at neighbouring time scales.
        relative_learning_rate: feed the log learning rate relative to its mean over the
            `"model"` or the `"tensor"`, or leave it `"off"`.
        gradient_shortcut: add a linear read-out of the scaled averages to the direction.
        learned_start_vectors: off, every RNN starts from zeros.

    Raises:
        ValueError: naming the argument, what came and what is allowed.
    """

    parameter_units: int = 10
    tensor_units: int = 20
    global_units: int = 20
    time_scales: int = 4
    lookahead: bool = False
    step_size: str = "learned"
    update_scale_decay: float = 0.0
    bounded_updates: bool = False
    width_exponent: float = 0.0
    tensor_step_size: bool = False
    averaging: float = 0.0
    alignment_control: bool = False
    rotation_limit: int = 0
    dynamic_output_scale: bool = True
    learnable_input_decay: bool = True
    learnable_scale_decay: bool = True
    relative_log_mean_squares: bool = True
    gradient_products: bool = True
    relative_learning_rate: str = "model"
    gradient_shortcut: bool = True
    learned_start_vectors: bool = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                check(self, field.name, is_number(value, int), "an integer")
            elif field.type == "float":
                check(self, field.name, is_number(value, (int, float)) and 0 <= value < 1,
                      "a number of at least 0 and below 1")
            elif field.type == "bool":
                check(self, field.name, isinstance(value, bool), "True or False")
        check(self, "parameter_units", 1 <= self.parameter_units <= 1024, "from 1 to 1024")
        check(self, "tensor_units", 0 <= self.tensor_units <= 1024, "from 0 to 1024")
        check(self, "global_units", 0 <= self.global_units <= 1024, "from 0 to 1024")
        check(self, "time_scales", 1 <= self.time_scales <= 8, "from 1 to 8")
        check(self, "rotation_limit", 0 <= self.rotation_limit <= 8192, "from 0 to 8192")
        check(self, "step_size", self.step_size in STEP_SIZES, f"one of {STEP_SIZES}")
        check(self, "relative_learning_rate",
              self.relative_learning_rate in RELATIVE_LEARNING_RATES,
              f"one of {RELATIVE_LEARNING_RATES}")
        if self.global_units and not self.tensor_units:
            raise ValueError(
                "`global_units` must be 0 where `tensor_units` is 0 (the Global RNN reads the "
                f"Tensor RNN), got {self.global_units}."
            )
        normalized = self.step_size == "normalized"
        check(self, "averaging", not (self.averaging and self.lookahead), "0 with lookahead")
        for name in ("update_scale_decay", "width_exponent"):
            check(self, name, normalized or not getattr(self, name),
                  "0 unless step_size='normalized'")
        check(self, "tensor_step_size", not self.tensor_step_size or (
            normalized and self.tensor_units),
            "False unless step_size='normalized' and there is a Tensor RNN")
        check(self, "bounded_updates", not self.bounded_updates or self.update_scale_decay,
              "False where `update_scale_decay` is 0")
        check(self, "alignment_control", not self.alignment_control or (
            normalized and self.averaging),
            "False unless step_size='normalized' and there is averaging")
        check(self, "dynamic_output_scale", self.dynamic_output_scale or not normalized,
              "True with step_size='normalized'")

    @property
    def attends(self) -> bool:
        """Whether gradients are taken elsewhere than at the parameters that are trained."""
        return self.lookahead or self.averaging > 0

    @property
    def keeps_log_learning_rate(self) -> bool:
        """Whether the state has a log learning rate for each parameter."""
        return self.dynamic_output_scale

    @property
    def feeds_relative_learning_rate(self) -> bool:
        """Whether the relative log learning rate is an input of the Parameter RNN."""
        return self.keeps_log_learning_rate and self.relative_learning_rate != "off"

    @property
    def inputs(self) -> int:
        """Number of inputs of the Parameter RNN for each parameter (12 with everything on)."""
        scales = self.time_scales
        return (
            scales
            + (scales - 1) * self.gradient_products
            + scales * self.relative_log_mean_squares
            + self.feeds_relative_learning_rate
        )

    def to_dict(self) -> dict[str, Any]:
        """All switches by name, as JSON holds them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> HierarchicalRNNConfig:
        """The config that `to_dict` wrote.

        Raises:
            ValueError: if a name is not a switch, or a value is not allowed.
        """
        if not isinstance(values, dict):
            raise ValueError(f"`config` must be a dict of switches, got {type(values).__name__}.")
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"`config` has switches that do not exist: {', '.join(unknown)}.")
        return cls(**values)
