"""Replays trajectories of the learned optimizers that others released.

They go through the joint, `LearnedOptimizer.step`, and not through `LearnedOpt`, which hands on no
gradient that is not finite and holds tensors whose gradients are 0.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import keras
import numpy as np
from keras import ops

from eval.conformance.recording import FormatError, Recording
from hrnn_opt.files.foreign import from_pytree
from hrnn_opt.interface import LearnedOptimizer, Seen, State, sized
from hrnn_opt.networks.moments import factored_of
from hrnn_opt.places.layout import Layout
from hrnn_opt.rules.chain import network_within


@dataclasses.dataclass(frozen=True)
class Case:
    """One optimizer on a recording.

    Attributes:
        network: the optimizer.
        tolerances: largest allowed deviations by quantity. Parameters: relative to the farthest
            that an entry of the tensor was from its start; moments: relative to the largest number;
            inputs: absolute.
        rates: (T,) learning rates.
        first: number of the first step.
    """

    network: LearnedOptimizer
    tolerances: dict[str, float]
    rates: np.ndarray
    first: int = 0


def _small_fc(recording: Recording) -> Case:
    constants = {"step_multiplier": recording.number("step_mult"),
                 "exponent_multiplier": recording.number("exp_mult")}
    weights = from_pytree(recording.meta_parameters, constants)
    return Case(
        weights.network(), {"parameters": 2e-5, "moments": 2e-5, "inputs": 2e-5},
        np.ones(recording.steps), recording.count("iteration0", least=0, default=0))


def _cases(recording: Recording) -> list[Case]:
    if "meta/nn/~/w0" in recording:
        return [_small_fc(recording)]
    raise FormatError("holds the meta-parameters of no optimizer that is known")


def replay(arrays: dict[str, np.ndarray]) -> tuple[dict[str, float], dict[str, float]]:
    """Largest deviations from one trajectory file by quantity, and the largest allowed ones. What
    is not finite counts as the largest number there is.

    Raises:
        FormatError: if a key is missing or does not fit.
    """
    recording = Recording(arrays)
    worst: dict[str, float] = {}
    tolerances: dict[str, float] = {}
    try:
        cases = _cases(recording)
    except ValueError as error:
        raise FormatError(error) from None
    for case in cases:
        found = _Replay(case, recording).run()
        worst |= found
        tolerances |= {name: case.tolerances[name] for name in found}
    return worst, tolerances


class _Replay:
    """One optimizer's way along a recording."""

    def __init__(self, case: Case, recording: Recording) -> None:
        self.case, self.recording = case, recording
        self.layout = Layout([start.shape for start in recording.start])
        self.worst: dict[str, float] = {}
        self._step = self._compiled()

    def _compiled(self) -> Any:
        network, layout = self.case.network, self.layout

        def step(state: State, seen: Seen, rate: Any) -> tuple[State, Any, dict[str, Any]]:
            new, move = network.step(layout, state, seen)
            move = sized(move, layout)
            read = {"feature": network_within(network).inputs(layout, new, seen)}
            return new, rate * move.update, read

        if keras.backend.backend() != "jax":
            return step
        import jax

        # Files are short: to compile takes longer than to run.
        return jax.jit(step, compiler_options={"xla_backend_optimization_level": 0})

    def run(self) -> dict[str, float]:
        """Largest deviations by quantity."""
        recording, layout = self.recording, self.layout
        state = self.case.network.init_state(layout)
        state["model_steps"] = state["model_steps"] + float(self.case.first)
        parameters = self._flat(recording.start)
        off, far = np.zeros(recording.tensors), np.full(recording.tensors, 1e-30)
        for t in range(recording.steps):
            gradient = self._flat([
                recording.get(f"grad/{t}/{i}", start.shape)
                for i, start in enumerate(recording.start)])
            state, update, read = self._step(
                state, Seen(gradient, parameters), np.float32(self.case.rates[t]))
            parameters = parameters - update
            for i, (ours, start) in enumerate(zip(_numpy(layout.unflatten(parameters)),
                                                  recording.start)):
                theirs = recording.get(f"param/{t}/{i}", start.shape)
                off[i] = max(off[i], _largest(ours - theirs))
                far[i] = max(far[i], _largest(theirs - start))
            self._note_moments(t, state)
            self._note_inputs(t, read["feature"])
        self.worst["parameters"] = float(np.max(np.minimum(off / far, sys.float_info.max)))
        return self.worst

    def _flat(self, tensors: list[np.ndarray]) -> Any:
        return self.layout.flatten([ops.convert_to_tensor(np.float32(x)) for x in tensors])

    def _note(self, name: str, key: str, ours: Any, relative: bool = False) -> None:
        """Compare with what was recorded under this key, if anything was."""
        if key not in self.recording:
            return
        ours = np.asarray(ops.convert_to_numpy(ours), "float64")
        theirs = self.recording.get(key, ours.shape)
        off = _largest(ours - theirs)
        if relative:
            off /= max(_largest(theirs), 1e-30)
        self.worst[name] = max(self.worst.get(name, 0.0), off)

    def _note_moments(self, t: int, state: State) -> None:
        momenta = _numpy(self.layout.unflatten(state["momenta"]))
        squares = _numpy(self.layout.unflatten(state["mean_square"]))
        factored = factored_of(self.layout.shapes).per_tensor(state["factored"])
        for i, (momentum, square) in enumerate(zip(momenta, squares)):
            self._note("moments", f"mom/{t}/{i}", np.moveaxis(momentum, 0, -1), relative=True)
            self._note("moments", f"rms/{t}/{i}", square[..., None], relative=True)
            names = ["full"] if len(factored[i]) == 1 else ["row", "col"]
            for name, numbers in zip(names, factored[i]):
                self._note("moments", f"fac_{name}/{t}/{i}",
                           np.moveaxis(ops.convert_to_numpy(numbers), 0, -1), relative=True)

    def _note_inputs(self, t: int, inputs: Any) -> None:
        for i, read in enumerate(_numpy(self.layout.unflatten(inputs))):
            self._note("inputs", f"feature/{t}/{i}", np.moveaxis(read, 0, -1))


def _numpy(tensors: list[Any]) -> list[np.ndarray]:
    return [np.asarray(ops.convert_to_numpy(x), "float64") for x in tensors]


def _largest(x: Any) -> float:
    size = float(np.max(np.abs(x)))
    return size if np.isfinite(size) else sys.float_info.max
