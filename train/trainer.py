"""The loop of meta-training: draw families, estimate, step, validate, checkpoint."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hrnn_opt.files.weights import Pretrained, shapes_of
from hrnn_opt.interface import LearnedOptimizer
from hrnn_opt.registry import network_of
from hrnn_opt.rules.chain import network_within
from train import checkpoints, estimators, lengths, machine, suites
from train.config import TrainConfig
from train.devices import Devices, writes
from train.meta_optimizer import CleanGradient, clean, meta_optimizer
from train.tasks import Meta

# The share of the process's memory mappings beyond which programs are unloaded.
MOST_MEMORY_MAPS = 0.8
# Thirds of the length of a run.
PHASES = ("early", "middle", "late")


@dataclasses.dataclass
class StepReport:
    """What one meta-step did.

    Attributes:
        step: its number, from 1.
        losses: meta-objective by family.
        phases: meta-objective by family and phase: of the runs that were in each third of their
            length when the truncation began. Phases without runs are left out.
        gradient_norm: norm of the members' gradients, mean.
        signal: norm of the families' members' mean gradient over the mean of their norms, mean over
            families: 1 where they agree.
        clipped, left_out, bad: shares of clipped members, of those left out, and of entries that
            are not finite.
        inner_steps, parameter_steps: taken in it, in millions of parameters for the latter.
        seconds: it took.
    """

    step: int
    losses: dict[str, float]
    phases: dict[str, dict[str, float]]
    gradient_norm: float
    signal: float
    clipped: float
    left_out: float
    bad: float
    inner_steps: int
    parameter_steps: float
    seconds: float


class Trainer:
    """Meta-training of one configuration.

    Args:
        config: of the run.

    Attributes:
        meta: meta-parameters by name.
        average: their running average (`meta` itself where the config has none).
        step: meta-steps taken.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.network = self._initial_network()
        self.devices = Devices(config)
        self.families, self.weights = suites.families(config, self.network)
        self.estimators = [
            estimators.make(family, config, self.devices.members) for family in self.families]
        self.optimizer = meta_optimizer(config)
        self.meta: Meta = self.devices.replicate({
            name: jnp.array(variable.value) for name, variable in sorted(
                self.network.meta_parameters.items())
        })
        if not any(map(config.trains, self.meta)):
            raise ValueError(
                f"`trainable` must match one of {sorted(self.meta)}, got {config.trainable!r}.")
        self.average = dict(self.meta)
        self.optimizer_state = self.devices.replicate(self.optimizer.init(self.meta))
        self.step = 0
        self.states: list[Any | None] = [None] * len(self.families)
        # Families whose programs are loaded, that used longest ago first.
        self._loaded: list[int] = []
        self._clean = jax.jit(self._cleaned, out_shardings=self.devices.everywhere)
        self._progress = jax.jit(lambda runs: jnp.concatenate(
            [tasks.step / tasks.horizon for tasks in runs], axis=1))
        self._update = jax.jit(self._updated)

    def _initial_network(self) -> LearnedOptimizer:
        if not self.config.initial_weights:
            network = network_of(self.config.network_config, seed=self.config.seed)
            _start(network, self.config.start)
            return network
        pretrained = Pretrained.load(self.config.initial_weights)
        config = self.config.network_config
        theirs, ours = shapes_of(pretrained.config), shapes_of(config)
        differ = sorted(
            name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
        if pretrained.config.kind != config.kind or differ:
            raise ValueError(
                f"`initial_weights` must have the kind {config.kind!r} and the meta-parameters of "
                f"`network`, got the kind {pretrained.config.kind!r}; of other shapes, missing or "
                f"unknown are {differ[:4]}.")
        # Switches that change no meta-parameter are those of this training.
        return dataclasses.replace(pretrained, config=config).network()

    def _cleaned(
        self, estimate: estimators.Estimate, progress: jax.Array
    ) -> tuple[CleanGradient, jax.Array, jax.Array]:
        """The gradient, the mean meta-objective, and its mean by phase."""
        return (clean(estimate.gradients, self.config), jnp.mean(estimate.losses),
                by_phase(estimate.losses, progress))

    def _updated(
        self, meta: Meta, average: Meta, state: Any, gradients: list[Meta], step: jax.Array
    ) -> Any:
        gradient = jax.tree.map(lambda *g: sum(g) / len(g), *gradients)
        # The optimizer sees units.
        units = {name: self.config.unit(name) for name in meta}
        updates, state = self.optimizer.update(
            gradient, state, {name: value / units[name] for name, value in meta.items()})
        meta = optax.apply_updates(
            meta, {name: units[name] * update for name, update in updates.items()})
        # The average forgets the start as fast as it has steps to put in its place.
        decay = jnp.minimum(self.config.average, step / (step + 9.0))
        average = jax.tree.map(lambda a, m: decay * a + (1 - decay) * m, average, meta)
        return meta, average, state

    # Randomness follows from (seed, step), so that a resumed run draws what an unbroken one does.

    def _key(self, *numbers: int) -> jax.Array:
        key = jax.random.key(self.config.seed)
        for n in numbers:
            key = jax.random.fold_in(key, n)
        return key

    def _drawn(self) -> list[int]:
        rng = np.random.default_rng((self.config.seed, self.step))
        count = min(self.config.families, len(self.families))
        return sorted(rng.choice(len(self.families), count, replace=False, p=self.weights))

    def run_step(self) -> StepReport:
        """One meta-step."""
        started = time.perf_counter()
        segments = lengths.segments(self.config, self.step)
        cleaned, losses, phases = [], {}, {}
        for index in self._drawn():
            # Two sums over devices under way at once can wait for each other's threads for ever.
            result, losses[index], phases[index] = jax.block_until_ready(
                self._clean(*self._run_family(index, segments)))
            cleaned.append(result)
        self.meta, self.average, self.optimizer_state = self._update(
            self.meta, self.average, self.optimizer_state,
            [c.gradient for c in cleaned], jnp.float32(self.step))
        self.step += 1
        runs = self.config.members * self.config.models * segments * self.config.unroll
        return StepReport(
            step=self.step,
            losses={self.families[i].name: float(loss) for i, loss in losses.items()},
            phases={self.families[i].name: {
                phase: float(loss) for phase, loss in zip(PHASES, by) if np.isfinite(loss)
            } for i, by in phases.items()},
            gradient_norm=float(np.mean([np.mean(c.norms) for c in cleaned])),
            signal=float(np.mean([c.signal for c in cleaned])),
            clipped=float(np.mean([c.clipped for c in cleaned])),
            left_out=float(np.mean([c.left_out for c in cleaned])),
            bad=float(np.mean([c.bad for c in cleaned])),
            inner_steps=runs * len(losses),
            parameter_steps=sum(runs * self.families[i].layout.parameters for i in losses) / 1e6,
            seconds=time.perf_counter() - started,
        )

    def _run_family(self, index: int, segments: int) -> tuple[estimators.Estimate, jax.Array]:
        """One truncation of a family's runs, and the (G, M) shares of their lengths that they had
        behind them before it."""
        self._make_room(index)
        estimator, state = self.estimators[index], self.states[index]
        if not estimator.persistent:
            state = estimator.init(self._key(3, index, self.step), self.meta)
        elif state is None:
            state = estimator.init(self._key(1, index), self.meta)
        elif estimator.ended(state):
            state = estimator.renew(state, self._key(3, index, self.step))
        progress = self._progress(estimator.runs(state))
        estimate, state = estimator.estimate(
            self.meta, state, self._key(2, index, self.step), segments)
        self.states[index] = state if estimator.persistent else None
        return estimate, progress

    def _make_room(self, index: int) -> None:
        """Unload programs used longest ago, where those of this family would be too many."""
        if index in self._loaded:
            self._loaded.remove(index)
        else:
            while self._loaded and machine.memory_maps_used() > MOST_MEMORY_MAPS:
                self.estimators[self._loaded.pop(0)].unload()
        self._loaded.append(index)

    def optimizer_states(self) -> dict[str, np.ndarray]:
        """What the learned optimizer has decided for every parameter of all runs that there are.

        Returns:
            By `quantity/family`, (N,) log learning rates, or decays from 0 to 1.
        """
        found = {}
        for family, estimator, state in zip(self.families, self.estimators, self.states):
            if state is None:
                continue
            for quantity in ("log_learning_rate", "input_decay", "scale_decay"):
                runs = [tasks.state for tasks in estimator.runs(state)]
                if quantity in runs[0]:
                    buffers = [of_run[quantity] for of_run in runs]
                    found[f"{quantity.replace('_', ' ')}/{family.name}"] = np.concatenate([
                        np.ravel(tensor) for buffer in self.devices.gather(buffers)
                        for tensor in family.layout.unflatten(buffer)])
        return found

    # Saving.

    def _tree(self) -> dict[str, Any]:
        """All that the run needs to go on, with the runs of the families drawn so far."""
        return {
            "meta": self.meta,
            "average": self.average,
            "optimizer": self.optimizer_state,
            "step": np.int64(self.step),
            "states": {
                str(i): self.devices.gather(s)
                for i, s in enumerate(self.states) if s is not None},
        }

    def save(self, folder: Path) -> None:
        """Write a checkpoint, from one of the processes."""
        tree = self._tree()
        if writes():
            checkpoints.save(folder, self.step, tree, self.config)

    def resume(self, folder: Path) -> bool:
        """Go on from the newest good checkpoint in the folder. Returns whether there was one."""
        tree = checkpoints.restore(folder, self._like, self.config)
        if tree is None:
            return False
        self.meta, self.average, self.optimizer_state = self.devices.replicate(
            (tree["meta"], tree["average"], tree["optimizer"]))
        self.step = int(tree["step"])
        for index, state in tree["states"].items():
            self.states[int(index)] = self.devices.spread(state)
        return True

    def _like(self, names: set[str]) -> dict[str, Any]:
        """The structure of a checkpoint that has arrays of these names."""
        present = [i for i in range(len(self.families)) if any(
            name.startswith(f"['states']['{i}']") for name in names)]
        states = {str(i): self.estimators[i].shapes(self.meta)[1] for i in present}
        rest = {name: tree for name, tree in self._tree().items() if name != "states"}
        return {**rest, "states": states}

    def weights_file(self, meta: Meta | None = None) -> Pretrained:
        """The averaged meta-parameters (or the given ones) as weights to be shipped."""
        arrays = {name: np.array(v) for name, v in (meta or self.average).items()}
        low, high = self.config.initial_learning_rate
        rate_low, rate_high = self.config.learning_rate
        return Pretrained(
            self.network.network_config, arrays,
            initial_learning_rate=float(np.sqrt(low * high)),
            learning_rate=float(np.sqrt(rate_low * rate_high)))


def _start(network: LearnedOptimizer, name: str) -> None:
    """Write start values into a network, or the one inside rules."""
    inner = network_within(network)
    inner.starts[name](inner)


def by_phase(losses: jax.Array, progress: jax.Array) -> jax.Array:
    """The mean loss in each of the `PHASES`; NaN where a phase has none.

    Args:
        losses: (G, M).
        progress: (G, M) shares of the runs, from 0.
    """
    phase = jnp.minimum(jnp.floor(len(PHASES) * progress), len(PHASES) - 1)
    return jnp.stack([jnp.mean(losses, where=phase == i) for i in range(len(PHASES))])
