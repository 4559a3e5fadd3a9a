"""What a step of an optimizer of PyTorch costs by itself, without the way there from JAX."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import time
from typing import Any, ClassVar

import numpy as np

from eval.runs import optimizers
from eval.runs.data import Data

# Steps of a span, in which what is done every ten steps happens ten times; the first is not timed.
STEPS, SPANS = 100, 5


@dataclasses.dataclass(frozen=True)
class TorchStep:
    """Steps on random gradients, which cost what any others do.

    Attributes:
        optimizer: one of `eval.runs.optimizers.TORCH`, which is made as it comes.
        shapes: of what it trains.
    """

    KEYS: ClassVar[frozenset[str]] = frozenset({"step_seconds"})

    optimizer: str
    shapes: tuple[tuple[int, ...], ...]

    @property
    def title(self) -> str:
        """A short readable name; two may share it."""
        return f"torch-{self.optimizer}-{len(self.shapes)}"

    def configuration(self, data: Data) -> dict[str, Any]:
        """Everything that the result depends on, but for the machine; `data` are not."""
        return {"optimizer": self.optimizer, "shapes": [list(shape) for shape in self.shapes],
                "torch": importlib.metadata.version("torch").split("+")[0],
                "steps": STEPS, "spans": SPANS}

    def execute(self, data: Data) -> dict[str, Any]:
        """Measure.

        Returns:
            `step_seconds`, the median over spans of the CPU seconds of a step, on one thread;
            `seconds` of all; and the configuration.
        """
        import torch

        began = time.perf_counter()
        rng = np.random.default_rng(0)

        def drawn() -> list[Any]:
            return [torch.from_numpy(rng.standard_normal(shape).astype("float32"))
                    for shape in self.shapes]

        tensors, gradients = drawn(), [drawn() for _ in range(10)]
        optimizer = optimizers.build(
            self.optimizer, learning_rate=None, schedule="constant", steps=0).make(tensors)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            spans = []
            for _ in range(1 + SPANS):
                at = time.process_time()
                for step in range(STEPS):
                    for tensor, gradient in zip(tensors, gradients[step % len(gradients)]):
                        tensor.grad = gradient
                    optimizer.step()
                spans.append((time.process_time() - at) / STEPS)
        finally:
            torch.set_num_threads(threads)
        return {"step_seconds": float(f"{np.median(spans[1:]):.3g}"),
                "seconds": round(time.perf_counter() - began, 2), **self.configuration(data)}
