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
from hrnn_opt.files.weights import Pretrained
from hrnn_opt.interface import LearnedOptimizer, Seen, State, sized
from hrnn_opt.networks.moments import factored_of
from hrnn_opt.places.layout import Layout
from hrnn_opt.rules import Mu
from hrnn_opt.rules.chain import network_within, rules_around

# A name of tensors that are Adam's.
_ADAMS = "adam"
_MULTIPLIERS = "mup_mult"


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
        names: of the tensors.
    """

    network: LearnedOptimizer
    tolerances: dict[str, float]
    rates: np.ndarray
    first: int = 0
    names: tuple[str, ...] | None = None


def _small_fc(recording: Recording) -> Case:
    constants = {"step_multiplier": recording.number("step_mult"),
                 "exponent_multiplier": recording.number("exp_mult")}
    return Case(
        _in_mu(from_pytree(recording.meta_parameters, constants), recording),
        {"parameters": 5e-5 if _MULTIPLIERS in recording else 2e-5, "moments": 2e-5,
         "inputs": 2e-5},
        np.ones(recording.steps), recording.count("iteration0", least=0, default=0))


def _in_mu(weights: Pretrained, recording: Recording) -> LearnedOptimizer:
    """The network, inside the rule by the width of layers where the recording says so."""
    network = weights.network()
    if _MULTIPLIERS not in recording:
        return network
    multipliers = recording.get(_MULTIPLIERS, (recording.tensors,))
    return Mu(network, multipliers=tuple(float(x) for x in multipliers),
              clip_norm=recording.number("clip_grad", 0.0))


def _celo2(recording: Recording) -> Case:
    adam, corrected = np.zeros(recording.tensors, bool), "lr" in recording
    if "adam" in recording:
        adam = recording.get("adam", (recording.tensors,)).astype(bool)
        for name, expected in (("adam_b1", 0.9), ("adam_b2", 0.95)):
            if abs(recording.number(name) - expected) > 1e-6:
                raise FormatError(f"{name!r} must be {expected}, got {recording.number(name)}")
    constants = {
        "orthogonalize": bool(recording.number("orthogonalize")),
        "weight_decay": recording.number("weight_decay"), "adam_corrected": corrected,
        # Tensors go by their names.
        "adam_vectors": False, "adam_names": (_ADAMS,),
        "adam_multiplier": recording.number("adam_mult" if corrected else "mult_1d", 1.0)}
    rates = (recording.get("lr", (recording.steps,)) if corrected
             else np.full(recording.steps, recording.number("step_mult")))
    return Case(
        from_pytree(recording.meta_parameters, constants).network(),
        {"parameters": 2e-5 if corrected else 5e-5, "moments": 2e-5, "inputs": 2e-5,
         "update": 1e-4, "orthogonal": 1e-4, "direction": 1e-4},
        rates, names=tuple(_ADAMS if is_adams else "" for is_adams in adam))


def _cases(recording: Recording) -> list[Case]:
    if "meta/nn/~/w0" in recording:
        return [_small_fc(recording)]
    if "meta/ff_mod_stack/~/w0__0" in recording:
        return [_celo2(recording)]
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
        self.layout = Layout([start.shape for start in recording.start], names=case.names)
        self.worst: dict[str, float] = {}
        self._step = self._compiled()

    def _compiled(self) -> Any:
        network, layout = self.case.network, self.layout

        def step(state: State, seen: Seen, rate: Any) -> tuple[State, Any, dict[str, Any]]:
            new, move = network.step(layout, state, seen)
            move = sized(move, layout)
            return new, rate * move.update, _read(network, layout, new, seen)

        if keras.backend.backend() != "jax":
            return step
        import jax

        # Files are short: to compile takes longer than to run.
        return jax.jit(step, compiler_options={"xla_backend_optimization_level": 0})

    def run(self) -> dict[str, float]:
        """Largest deviations by quantity."""
        recording, layout = self.recording, self.layout
        state = self.case.network.init_state(layout)
        if "model_steps" in state:
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
            self._note_read(t, read)
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
            key = f"mom/{t}/{i}"
            # Of Adam's tensors there is one.
            count = self.recording.get(key).shape[-1] if key in self.recording else 0
            self._note("moments", key, np.moveaxis(momentum[:count], 0, -1), relative=True)
            self._note("moments", f"rms/{t}/{i}", square[..., None], relative=True)
            names = ["full"] if len(factored[i]) == 1 else ["row", "col"]
            for name, numbers in zip(names, factored[i]):
                self._note("moments", f"fac_{name}/{t}/{i}",
                           np.moveaxis(ops.convert_to_numpy(numbers), 0, -1), relative=True)

    def _note_read(self, t: int, read: dict[str, Any]) -> None:
        for name, key in (("inputs", "feature"), ("direction", "direction"),
                          ("orthogonal", "ortho"), ("update", "update")):
            if name not in read:
                continue
            for i, ours in enumerate(_numpy(self.layout.unflatten(read[name]))):
                key_of_one = f"{key}/{t}/{i}"
                if name == "inputs" and key_of_one in self.recording:
                    # Of vectors, Celo2's network does not read all.
                    count = self.recording.get(key_of_one).shape[-1]
                    ours = np.moveaxis(ours[:count], 0, -1)
                self._note(name, key_of_one, ours)


def _read(whole: LearnedOptimizer, layout: Layout, state: State, seen: Seen) -> dict[str, Any]:
    """What a network read and made of it on the way, (..., B, L) by quantity."""
    for rule in rules_around(whole):
        if isinstance(rule, Mu):
            seen = seen._replace(gradient=rule.cleaned(layout, seen.gradient))
    network: Any = network_within(whole)
    found = {"inputs": network.inputs(layout, state, seen)}
    if hasattr(network, "direction"):
        found["direction"] = network.direction(found["inputs"])
        found["orthogonal"] = network.orthogonal(layout, found["direction"])
        found["update"] = network.learned(layout, state, seen)
    return found


def _numpy(tensors: list[Any]) -> list[np.ndarray]:
    return [np.asarray(ops.convert_to_numpy(x), "float64") for x in tensors]


def _largest(x: Any) -> float:
    size = float(np.max(np.abs(x)))
    return size if np.isfinite(size) else sys.float_info.max
