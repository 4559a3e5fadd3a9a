"""The elliptic loss in two dimensions: the smallest problem on which momenta differ."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, ClassVar

import keras
import numpy as np

from eval.runs.data import Data

# The loss is half the sum of curvature times square.
CURVATURE = (1.0, 0.02)
START = (1.0, 1.0)
RATE = 0.1
# Of the switch, and each alone.
MOMENTA = (0.0, 0.5, 0.9, 0.99)


@dataclasses.dataclass(frozen=True)
class EllipseRun:
    """SGD on the elliptic loss.

    Attributes:
        momentum: None for the switch among `MOMENTA`, as the authors have it.
        noise: standard deviation of what is added to each entry of the gradient.
        steps: how many.
        seed: of the noise.
    """

    KEYS: ClassVar[frozenset[str]] = frozenset({"final_training_loss", "curve", "diverged"})

    momentum: float | None
    noise: float
    steps: int
    seed: int

    @property
    def title(self) -> str:
        """A short readable name; two runs may share it."""
        name = "switch" if self.momentum is None else f"{self.momentum:g}"
        return f"ellipse-{name}-{self.noise:g}-{self.steps}-{self.seed}"

    def configuration(self, data: Data) -> dict[str, Any]:
        """Everything that the result depends on."""
        return dataclasses.asdict(self)

    def execute(self, data: Data) -> dict[str, Any]:
        """Descend; the loss at every step, and how often the switch chose each momentum."""
        import jax

        from hrnn_opt import GreedySwitch

        began = time.perf_counter()
        optimizer = (
            GreedySwitch.sgd(RATE, MOMENTA, holdout=False, smoothing=0.0) if self.momentum is None
            else keras.optimizers.SGD(RATE, momentum=self.momentum))
        variable = keras.Variable(np.array(START, "float32"))
        optimizer.build([variable])
        curvature = np.array(CURVATURE, "float32")
        noise = self.noise * np.random.default_rng(self.seed).normal(size=(self.steps, 2))

        def step(carry: Any, noise: Any) -> Any:
            x, state = carry
            (x,), state = optimizer.stateless_apply(state, [curvature * x + noise], [x])
            return (x, state), jax.numpy.sum(curvature * x**2) / 2

        start = variable.value, [own.value for own in optimizer.variables]
        (_, state), losses = jax.jit(lambda *given: jax.lax.scan(step, *given))(
            start, noise.astype("float32"))
        diverged = not np.isfinite(losses).all()
        uses = {}
        if self.momentum is None:
            for own, value in zip(optimizer.variables, state):
                own.assign(value)
            uses = dict(zip(map(str, MOMENTA), optimizer.uses().tolist()))
        curve = [[k + 1, float(loss)] for k, loss in enumerate(losses)]
        return {
            "final_training_loss": None if diverged else curve[-1][1],
            "curve": [] if diverged else curve, "diverged": diverged, "uses": uses,
            "seconds": round(time.perf_counter() - began, 2), **self.configuration(data)}
