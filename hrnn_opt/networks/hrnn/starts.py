"""Where meta-training starts from: rules that are written into a drawn network, in its own terms.

Backpropagation through short truncations teaches a network to take larger steps, and hardly ever
to take smaller ones later. What a rule knows of that, training need not find out.
"""

from __future__ import annotations

import numpy as np

from hrnn_opt.interface import LearnedOptimizer
from hrnn_opt.networks.hrnn.config import HierarchicalRNNConfig

# What the control steers to: log mean square at the fastest time scale minus that at the slowest.
# With decays as below it is 2.15 of independent gradients. Where it is more they turn back: the
# largest steps that lower a loss at once are too small in the long run.
RATIO = 2.45
# The mean of the unit that tells parameters with gradients from those without.
ACTIVITY = 0.78
# How fast the control can change log learning rates, and the power of time that they fall with.
GAIN = 0.2
POWER = 0.6
# Inner steps in which the clock of the control and those of the schedule run down by a factor e.
# Control ends at this level of its clock, after 0.9 times as many steps; the sharper, the more
# suddenly.
CONTROLLED = 1000.0
LET_GO = 0.4
SHARPNESS = 20.0
CLOCKS = (300.0, 3000.0, 30000.0)
STEP_SIZE_OFFSET = -2.0
# Read-out of the unit that holds the schedule. Of less than 1, since what changes in meta-training
# would drown the numbers of the slowest clock: they are the smaller, the larger this is.
SCHEDULE_WEIGHT = 0.2
INPUT_DECAY = 0.5
# Share of its state that a unit keeps at a step, as the drawn ones do: 1 / (1 + exp(-2.2)).
_KEPT = 2.2


class _Draft:
    """The numbers of a network, to be changed.

    A GRU's columns are its units: of the candidate one for each, of the gates the resets first and
    then the updates.
    """

    def __init__(self, network: LearnedOptimizer) -> None:
        self.network = network
        self.numbers = {
            name: np.array(variable) for name, variable in network.meta_parameters.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        return self.numbers[name]

    def own(self, level: str, unit: int, start: float, kept: float = _KEPT) -> None:
        """A unit that nothing reaches, and that is nothing's direction: what it does is up to who
        asked for it."""
        units = len(self[f"{level}_start"])
        self[f"{level}_rnn/gates_kernel"][:, [unit, units + unit]] = 0.0
        self[f"{level}_rnn/gates_bias"][units + unit] = kept
        self[f"{level}_rnn/candidate_kernel"][:, unit] = 0.0
        self[f"{level}_start"][unit] = start
        for name, numbers in self.numbers.items():
            if name.endswith(f"_to_{level}_kernel"):
                numbers[:, [unit, units + unit, 2 * units + unit]] = 0.0
        if level == "parameter":
            self["direction_weights"][unit] = 0.0

    def clock(self, unit: int, steps: float) -> None:
        """A unit of the model that falls from 1 as exp(-t / steps), its candidate being 0, and that
        no other one reads."""
        self.own("global", unit, 1.0, kept=np.log(steps - 1.0))
        for name, numbers in self.numbers.items():
            if name.startswith("global_to_"):
                numbers[unit] = 0.0
        for part in ("gates", "candidate"):
            # States come last among what a level reads.
            self[f"global_rnn/{part}_kernel"][unit - len(self["global_start"])] = 0.0

    def assign(self) -> None:
        for name, variable in self.network.meta_parameters.items():
            variable.assign(self.numbers[name])


def controlled(network: LearnedOptimizer) -> None:
    """Write a rule for the learning rate into a drawn network of the paper's form.

    Where successive gradients agree, the mean square of a fast average is that of a slow one; where
    they are independent, it is larger by a known factor; where they turn back, by more. The unit 0
    of each tensor reads how far its parameters are on either side of independence, those without
    gradients left out, and the model's unit 0 the mean of that. While the first clock runs, log
    learning rates fall or rise by it. They also fall with a power of time: by a sum of
    exponentials, one for each of the other clocks, which is close to 1 / t. Directions are
    means over the time scales, and what the drawn network adds to them is small.

    Args:
        network: a `HierarchicalRNN` with all of the paper's features but lookahead; changed.

    Raises:
        ValueError: for a network of another form.
    """
    config = HierarchicalRNNConfig()
    if network.config != config:
        raise ValueError(
            "`network` must have the default switches with start='controlled', got "
            f"{network.config}.")
    draft = _Draft(network)
    units, scales = config.parameter_units, config.time_scales
    # The parameters' inputs: scaled averages, products, logs of mean squares; see `_inputs`.
    last_product, fastest, slowest = 2 * scales - 2, 2 * scales - 1, 3 * scales - 2
    allowed, signal, schedule, active = range(4)

    for unit in (allowed, signal, schedule):
        draft.own("parameter", unit, 0.0)
    draft.own("parameter", active, ACTIVITY)
    draft["parameter_rnn/candidate_kernel"][last_product, active] = 30.0

    slope = 4.0
    draft.own("tensor", 0, 0.0)
    reads = draft["tensor_rnn/candidate_kernel"][:, 0]
    reads[units + fastest], reads[units + slowest] = slope, -slope
    reads[active] = -slope * RATIO / ACTIVITY

    draft.own("global", 0, 0.0)
    draft["global_rnn/candidate_kernel"][0, 0] = 2.0
    to_parameter = draft["global_to_parameter_kernel"]
    clocks = range(1, 2 + len(CLOCKS))
    for clock, steps in zip(clocks, (CONTROLLED, *CLOCKS)):
        draft.clock(clock, steps)
    to_parameter[0, 2 * units + signal] = 3.0

    # What is read at a step moves the mean of log learning rates by this share of it.
    share = 1.0 / (1.0 + np.exp(draft["learning_rate_momentum_logit"]))
    for clock, steps in zip(clocks[1:], CLOCKS):
        to_parameter[clock, 2 * units + schedule] = (
            -POWER * np.log(10.0) / steps / share / SCHEDULE_WEIGHT)
    # The reset gate lets the signal through while the first clock is above the level.
    draft["parameter_rnn/candidate_kernel"][config.inputs + signal, allowed] = 1.5
    draft["parameter_rnn/gates_bias"][signal] = -LET_GO * SHARPNESS
    to_parameter[clocks[0], signal] = SHARPNESS
    draft["learning_rate_weights"][[allowed, schedule]] = -GAIN, SCHEDULE_WEIGHT

    for name, factor in (("direction", 0.1), ("input_decay", 0.2), ("scale_decay", 0.2)):
        draft[f"{name}_weights"][:] *= factor
    draft["direction_shortcut"][:] = 1.0 / scales
    draft["input_decay_bias"][...] = np.log(INPUT_DECAY / (1.0 - INPUT_DECAY))
    draft["step_size_offset"][...] = STEP_SIZE_OFFSET
    draft.assign()

