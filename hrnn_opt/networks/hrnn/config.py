"""The switches of the hierarchical RNN: the paper's sizes and ablations, and no others."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from hrnn_opt.checks import Config, check, is_number

RELATIVE_LEARNING_RATES = ("model", "tensor", "off")


@dataclasses.dataclass(frozen=True)
class HierarchicalRNNConfig(Config):
    """One validated set of the switches, each named after what the paper's ablations call it.

    The defaults are the paper's optimizer (Wichrowska et al. 2017, section 3) without lookahead.

    Args:
        parameter_units: hidden size of the Parameter RNN, at least 1.
        tensor_units: hidden size of the Tensor RNN; 0 leaves the level out.
        global_units: hidden size of the Global RNN; 0 leaves the level out. Needs the Tensor RNN.
        time_scales: number of gradient averages (section 3.3.2), 1 to 8; 1 turns averaging off.
        lookahead: take the gradient at an attended location apart from the parameters
            (section 3.3.1).
        unit_direction: directions are divided by their RMS over the tensor, and a learned offset is
            added to the log learning rate (section 3.3.4). Off, the update is exp(log learning
            rate) times the raw direction, for a rule that scales it.
        dynamic_output_scale: off, the step is 2 sigmoid(read-out) times the raw direction, with no
            log learning rate kept. Only with `unit_direction`.
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
    unit_direction: bool = True
    dynamic_output_scale: bool = True
    learnable_input_decay: bool = True
    learnable_scale_decay: bool = True
    relative_log_mean_squares: bool = True
    gradient_products: bool = True
    relative_learning_rate: str = "model"
    gradient_shortcut: bool = True
    learned_start_vectors: bool = True

    NAME: ClassVar[str] = "hrnn"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                check(self, field.name, is_number(value, int), "an integer")
            elif field.type == "bool":
                check(self, field.name, isinstance(value, bool), "True or False")
        check(self, "parameter_units", 1 <= self.parameter_units <= 1024, "from 1 to 1024")
        check(self, "tensor_units", 0 <= self.tensor_units <= 1024, "from 0 to 1024")
        check(self, "global_units", 0 <= self.global_units <= 1024, "from 0 to 1024")
        check(self, "time_scales", 1 <= self.time_scales <= 8, "from 1 to 8")
        check(self, "relative_learning_rate",
              self.relative_learning_rate in RELATIVE_LEARNING_RATES,
              f"one of {RELATIVE_LEARNING_RATES}")
        if self.global_units and not self.tensor_units:
            raise ValueError(
                "`global_units` must be 0 where `tensor_units` is 0 (the Global RNN reads the "
                f"Tensor RNN), got {self.global_units}."
            )
        check(self, "dynamic_output_scale", self.dynamic_output_scale or self.unit_direction,
              "True without `unit_direction`")

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
