"""Replays trajectories of the learned optimizers that others released.

They go through the joint, `LearnedOptimizer.step`, and not through `LearnedOpt`, which hands on no
gradient that is not finite and holds tensors whose gradients are 0.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from eval.conformance.recording import FormatError, Recording
from hrnn_opt.files.foreign import from_pytree
from hrnn_opt.files.weights import Pretrained
from hrnn_opt.interface import LearnedOptimizer, Seen, State, sized
from hrnn_opt.networks import VeLO, moments, released, schedule
from hrnn_opt.networks.moments import factored_of
from hrnn_opt.places.layout import Layout
from hrnn_opt.rules import Mu
from hrnn_opt.rules.chain import network_within, rules_around

# A name of tensors that are Adam's.
_ADAMS = "adam"
_MULTIPLIERS = "mup_mult"
# Number of steps from which on averages of the loss are mostly rounding.
_FAR = 10_000


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
        losses: (T,) of the batches.
        horizon: number of steps of the whole training.
        accumulate: calls of the optimizer for each step, which gets the means of their gradients
            and losses.
        prefix: of the keys of what this optimizer did.
    """

    network: LearnedOptimizer
    tolerances: dict[str, float]
    rates: np.ndarray
    first: int = 0
    names: tuple[str, ...] | None = None
    losses: np.ndarray | None = None
    horizon: int | None = None
    accumulate: int = 1
    prefix: str = ""


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


def _scheduled(recording: Recording, weights: Mapping[str, np.ndarray], **case: Any) -> Case:
    """VeLO or Celo."""
    names = {"step_mult": "step_multiplier", "exp_mult": "exponent_multiplier",
             "weight_decay": "weight_penalty", "interp_mult": "mix_multiplier"}
    constants: dict[str, Any] = {
        ours: recording.number(theirs) for theirs, ours in names.items() if theirs in recording}
    for theirs, ours in (("bugged_loss_features", "flawed_losses"),
                         ("param_scale_mult", "relative")):
        if theirs in recording:
            constants[ours] = bool(recording.number(theirs))
    if "train_phase" in recording:
        constants["scheduled"] = recording.count("train_phase") == 2
    accumulate = recording.count("accumulate", default=1)
    horizon = recording.count("num_steps") // accumulate
    found = from_pytree(weights, constants)
    is_velo = found.config.kind == VeLO.Config.NAME
    parameters = 1e-4 if is_velo else 2e-5
    if "adam_param/0/0" in recording:
        parameters = 5e-5
    if _MULTIPLIERS in recording:
        parameters = 2e-4
    far = horizon > _FAR
    return Case(
        _in_mu(found, recording),
        {"parameters": parameters, "moments": 2e-5, "inputs": 2e-5, "time_inputs": 2e-5,
         "loss_inputs": sys.float_info.max if far else 1e-3, "tensor_inputs": 2e-5,
         "loss_mean": 1e-5, "loss_min": 1e-2 if far else 1e-5,
         # Those of VeLO are as good as what they are made of.
         "rates": 1e-3 if is_velo else 1e-4},
        np.ones(recording.steps), recording.count("iteration0", least=0, default=0),
        losses=recording.get("loss", (recording.steps,)), horizon=horizon, accumulate=accumulate,
        **case)


def _drawn(recording: Recording) -> dict[str, np.ndarray]:
    """The meta-parameters of a recording that only says how they were drawn."""
    h, bank = recording.count("lstm_hidden_size"), recording.count("param_inits")
    units, depth = recording.count("ff_hidden_size"), recording.count("ff_hidden_layers")
    rng = np.random.RandomState(recording.count("meta_seed", least=0))
    found: dict[str, np.ndarray] = {}

    def draw(name: str, scale: float, *shape: int) -> None:
        found[name] = (scale * rng.standard_normal(shape)).astype("float32")

    for name in ("hidden", "cell"):
        draw(f"lstm_init_state/{name}", 0.3, 1, h)
    for name, rows, columns in (
        ("linear", 30, h), ("linear_1", 30, h), ("linear_2", 30, h), ("rnn/linear", 2 * h, 4 * h),
        ("rnn_to_controls", h, bank), ("step_size", h, 1),
    ):
        draw(f"rnn_params/{name}/w", rows**-0.5, rows, columns)
        draw(f"rnn_params/{name}/b", 0.3, columns)
    sizes = [*[units] * depth, 3]
    for i, size in enumerate(sizes):
        draw(f"ff_mod_stack/~/b{i}", 0.1, bank, size)
    for i, rows in enumerate(released.GROUPS):
        draw(f"ff_mod_stack/~/w0__{i}", 0.5 / 30**0.5, bank, rows, units)
    for i, size in enumerate(sizes[1:], 1):
        draw(f"ff_mod_stack/~/w{i}", 0.25, bank, units, size)
    found[f"ff_mod_stack/~/w{depth}"][..., 1] *= 100
    found["rnn_params/step_size/b"] += np.float32(20)
    for name, array in found.items():
        flat = array.reshape(-1).astype("float64")
        expected = recording.get(f"check/{name}", (3,))
        if not np.allclose([flat[0], flat[-1], flat.sum()], expected, rtol=1e-6, atol=1e-6):
            raise FormatError(f"'check/{name}' is not of what 'meta_seed' draws")
    return found


def _cases(recording: Recording, weights: Mapping[str, Mapping[str, np.ndarray]]) -> list[Case]:
    if "meta/rnn_params/linear_1/w" in recording:
        return [_scheduled(recording, recording.meta_parameters)]
    if "meta_seed" in recording:
        return [_scheduled(recording, _drawn(recording))]
    if "adam_param/0/0" in recording:
        if not weights:
            raise FormatError("holds no meta-parameters: give their files by --weights")
        cases = []
        for path, arrays in weights.items():
            adam = not any(key.startswith("ff_mod_stack") for key in arrays)
            try:
                cases.append(_scheduled(recording, arrays, prefix="adam_" if adam else ""))
            except ValueError as error:
                raise FormatError(f"--weights {path}: {error}") from None
        return cases
    if "meta/nn/~/w0" in recording:
        return [_small_fc(recording)]
    if "meta/ff_mod_stack/~/w0__0" in recording:
        return [_celo2(recording)]
    raise FormatError("holds the meta-parameters of no optimizer that is known")


def replay(
    arrays: dict[str, np.ndarray], weights: Mapping[str, Mapping[str, np.ndarray]] | None = None
) -> tuple[dict[str, float], dict[str, float]]:
    """Largest deviations from one trajectory file by quantity, and the largest allowed ones. What
    is not finite counts as the largest number there is.

    Args:
        arrays: of the file.
        weights: by file, meta-parameters for a recording that holds none.

    Raises:
        FormatError: if a key is missing or does not fit.
    """
    recording = Recording(arrays)
    worst: dict[str, float] = {}
    tolerances: dict[str, float] = {}
    try:
        cases = _cases(recording, weights or {})
    except ValueError as error:
        raise FormatError(error) from None
    for case in cases:
        found = _Replay(case, recording).run()
        worst |= {case.prefix + name: value for name, value in found.items()}
        tolerances |= {case.prefix + name: case.tolerances[name] for name in found}
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

        horizon = self.case.horizon

        def step(
            state: State, seen: Seen, rate: Any, recorded: Any
        ) -> tuple[State, Any, dict[str, Any]]:
            # Known, as `LearnedOpt` knows it.
            seen = seen._replace(horizon=None if horizon is None else np.float32(horizon))
            new, move = network.step(layout, state, seen)
            move = sized(move, layout)
            return new, rate * move.update, _read(
                network, layout, state, new, seen._replace(parameters=recorded))

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
        prefix, calls = self.case.prefix, self.case.accumulate
        for t in range(recording.steps):
            read: dict[str, Any] = {}
            if t % calls == calls - 1:
                gradients = [self._mean(f"grad/{{}}/{i}", t, start.shape)
                             for i, start in enumerate(recording.start)]
                loss = None
                if self.case.losses is not None:
                    loss = ops.convert_to_tensor(
                        np.mean(self.case.losses[t - calls + 1 : t + 1], dtype="float32"))
                # What is read is compared at the recorded parameters: ours may be off by more.
                recorded = recording.start if not t else [
                    recording.get(f"{prefix}param/{t - 1}/{i}", start.shape)
                    for i, start in enumerate(recording.start)]
                state, update, read = self._step(
                    state, Seen(self._flat(gradients), parameters, loss),
                    np.float32(self.case.rates[t]), self._flat(recorded))
                parameters = parameters - update
            for i, (ours, start) in enumerate(zip(_numpy(layout.unflatten(parameters)),
                                                  recording.start)):
                theirs = recording.get(f"{prefix}param/{t}/{i}", start.shape)
                off[i] = max(off[i], _largest(ours - theirs))
                far[i] = max(far[i], _largest(theirs - start))
            if read:
                if "momenta" in state:
                    self._note_moments(t, state)
                self._note_read(t, read)
                self._note_schedule(t, state, read)
        self.worst["parameters"] = float(np.max(np.minimum(off / far, sys.float_info.max)))
        return self.worst

    def _mean(self, key: str, t: int, shape: tuple[int, ...]) -> np.ndarray:
        """Of the gradients that the step at call t has."""
        calls = [self.recording.get(key.format(k), shape)
                 for k in range(t - self.case.accumulate + 1, t + 1)]
        return np.mean(np.float32(calls), axis=0) if len(calls) > 1 else calls[0]

    def _note_schedule(self, t: int, state: State, read: dict[str, Any]) -> None:
        """What VeLO and Celo made of the time and the loss."""
        if "loss_means" not in state:
            return
        for name, field in (("loss_mean", "loss_means"), ("loss_min", "loss_minima")):
            self._note(name, f"{name}/{t}", state[field], relative=True)
        key, inputs = f"lstm_input/{t}", np.asarray(ops.convert_to_numpy(read["lstm_inputs"]))
        if key in self.recording:
            theirs = self.recording.get(key, inputs.T.shape)
            off = np.abs(inputs.T - theirs)
            for name, part in (("time", slice(9)), ("loss", slice(9, 18)),
                               ("tensor", slice(18, None))):
                if off[..., part].size:
                    quantity = f"{name}_inputs"
                    self.worst[quantity] = max(
                        self.worst.get(quantity, 0.0), _largest(off[..., part]))
        rates = np.asarray(ops.convert_to_numpy(read["rates"]))
        for key in (f"{self.case.prefix}lr_mult/{t}", f"rate/{t}"):
            if key in self.recording:
                # Celo's is one for all tensors.
                shape = self.recording.get(key).shape
                self._note("rates", key, np.broadcast_to(rates, shape), relative=True)

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


def _read(
    whole: LearnedOptimizer, layout: Layout, old: State, state: State, seen: Seen
) -> dict[str, Any]:
    """What a network read and made of it on the way, by quantity."""
    for rule in rules_around(whole):
        if isinstance(rule, Mu):
            seen = seen._replace(gradient=rule.cleaned(layout, seen.gradient))
    network: Any = network_within(whole)
    found = {}
    if "momenta" in state:
        found["inputs"] = network.inputs(layout, state, seen)
    if "loss_means" in state:
        found["rates"] = network.rates(state)
        before = {**state, **{name: old[name] for name in (*moments.FIELDS, "model_steps")
                              if name in old}}
        found["lstm_inputs"] = network.lstm_inputs(
            layout, before, schedule.penalized(layout, seen, network.config.weight_penalty))
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
