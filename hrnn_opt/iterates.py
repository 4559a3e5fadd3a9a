"""What a step moves: where the anchor, the gradients and the fast iterate are.

Keras's variables hold the location at which the next gradient is taken. The anchor is that location
plus an offset, which is kept where they differ.

| scheme | anchor x | location y of gradients | fast iterate | what is trained |
|---|---|---|---|---|
| `Plain` | what the steps move | x | x | x |
| `Lookahead` | what the steps move | the old x less the step's `ahead` | x | x |
| `Averaging` | average of all z | (1 - share) z + share x | z | y |

With averaging, what is trained, shown, saved and restored is the location of gradients, which the
model's variables hold all the time, and not the average: nothing is put in its place when training
ends, and losses are lower there (`lab/35-where-averaging-ends.md`).

At a learning rate of 0 no scheme moves anything, neither the anchor nor the location: the caller
leaves out `move`.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any


class Iterates(abc.ABC):
    """One scheme.

    Attributes:
        keeps_offset: the anchor is elsewhere than the location of gradients.
        attends: it is the anchor that is trained, so that the model's variables hold another
            location while training.
        decays_update: weight decay adds to the update, where it else shrinks the parameters first.
    """

    keeps_offset: bool = True
    attends: bool = False
    decays_update: bool = False

    @abc.abstractmethod
    def move(
        self, anchor: Any, offset: Any, update: Any, ahead: Any, weight: Any
    ) -> tuple[Any, Any]:
        """One step.

        Args:
            anchor: x, after weight decay.
            offset: x less the location of the gradient, before it; None where they are the same.
            update, ahead: of the `Step`, times the learning rate.
            weight: of the `Step`.

        Returns:
            The new anchor, and the location of the next gradient.
        """


@dataclasses.dataclass(frozen=True)
class Plain(Iterates):
    """Gradients are taken at the parameters."""

    keeps_offset = False

    def move(self, anchor, offset, update, ahead, weight):
        anchor = anchor - update
        return anchor, anchor


@dataclasses.dataclass(frozen=True)
class Lookahead(Iterates):
    """Gradients are taken where the network looks (Wichrowska et al. 2017, section 3.3.1)."""

    attends = True

    def move(self, anchor, offset, update, ahead, weight):
        return anchor - update, anchor - ahead


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

    def move(self, anchor, offset, update, ahead, weight):
        rest = 1.0 - self.share
        behind = offset / rest + update  # x - z
        anchor = anchor - weight * behind
        return anchor, anchor - rest * (1.0 - weight) * behind
