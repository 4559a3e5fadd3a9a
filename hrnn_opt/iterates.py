"""What a step moves: where the parameters, the gradients and the fast iterate are.

Keras's variables hold the location at which the next gradient is taken. The parameters that are
trained are that location plus an offset, which is kept where they differ.

| scheme | trained parameters x | location of gradients | fast iterate |
|---|---|---|---|
| `Plain` | what the steps move | x | x |
| `Lookahead` | what the steps move | the old x less the step's `ahead` | x |
| `Averaging` | average of all z | (1 - share) z + share x | z |
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any


class Iterates(abc.ABC):
    """One scheme.

    Attributes:
        attends: the location of gradients is not that of the parameters.
        decays_update: weight decay adds to the update, where it else shrinks the parameters first.
    """

    attends: bool = True
    decays_update: bool = False

    @abc.abstractmethod
    def move(
        self, parameters: Any, offset: Any, update: Any, ahead: Any, weight: Any
    ) -> tuple[Any, Any]:
        """One step.

        Args:
            parameters: x, after weight decay.
            offset: x less the location of the gradient, before it; None where they are the same.
            update, ahead: of the `Step`, times the learning rate.
            weight: of the `Step`.

        Returns:
            The new parameters, and the location of the next gradient.
        """


@dataclasses.dataclass(frozen=True)
class Plain(Iterates):
    """Gradients are taken at the parameters."""

    attends = False

    def move(self, parameters, offset, update, ahead, weight):
        parameters = parameters - update
        return parameters, parameters


@dataclasses.dataclass(frozen=True)
class Lookahead(Iterates):
    """Gradients are taken where the network looks (Wichrowska et al. 2017, section 3.3.1)."""

    def move(self, parameters, offset, update, ahead, weight):
        return parameters - update, parameters - ahead


@dataclasses.dataclass(frozen=True)
class Averaging(Iterates):
    """Schedule-free learning (Defazio et al. 2024, equations 3 to 5).

    With z the fast iterate, x its average and y = (1 - share) z + share x the location of
    gradients: z <- z - update, x <- x + weight (z - x).

    Args:
        share: of the average in the location of gradients, at least 0 and below 1.
    """

    share: float = 0.9
    decays_update = True

    def move(self, parameters, offset, update, ahead, weight):
        rest = 1.0 - self.share
        behind = offset / rest + update  # x - z
        parameters = parameters - weight * behind
        return parameters, parameters - rest * (1.0 - weight) * behind
