"""How a small network reads each parameter: moments are kept, and what is made of them is brought
to one size in each tensor.

A network reads tens of numbers of each parameter. They are made some blocks at a time
(`places/sweep.py`), twice, since the first time only tells their size: so they need not be kept.
Dimension letters are those of `interface.py`; F numbers are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from keras import ops

from hrnn_opt.interface import Seen, State
from hrnn_opt.networks import moments
from hrnn_opt.places.layout import Layout, block_sums
from hrnn_opt.places.sweep import Moved, hold, sweep


class Reading(NamedTuple):
    """What is read of a parameter.

    Attributes:
        size: F.
        of: (gradient, parameters, parts) of all blocks or some to (F, ..., B, L) in pieces.
        epsilon, vector_epsilon: as in `moments.parts`.
        norm_epsilon: added to the mean square of an input in a tensor.
    """

    size: int
    of: Callable[[Any, Any, moments.Parts], Sequence[Any]]
    epsilon: float
    vector_epsilon: float
    norm_epsilon: float

    def inputs(self, layout: Layout, state: State, seen: Seen) -> Any:
        """(F, ..., B, L) all that is read.

        Args:
            layout: of the tensors.
            state: of moments that know the gradient already.
            seen: with gradients that can be squared.
        """
        x = self._raw(
            {name: state[name] for name in moments.AVERAGES},
            moments.spread(layout, state["factored"]), seen.gradient, seen.parameters,
            layout.used_lanes)
        return x * self._scale(layout, block_sums(ops.square(x), layout.used_lanes))

    def step(
        self, layout: Layout, state: State, seen: Seen, decays: moments.Decays,
        network: Callable[..., Any], more: Sequence[Any], active: Any | None, taken: Any | None,
    ) -> tuple[State, State, Any]:
        """One step of the moments, and what a network makes of what is read after it.

        Args:
            layout, state: as in `inputs`, but of moments before the step.
            seen: as in `inputs`.
            decays: of the moments.
            network: (inputs, *more) of all blocks or some to (..., B, L).
            more: what it sees beside the inputs, (n, ..., B, 1) each.
            active, taken: as in `sweep`.

        Returns:
            The moments in `moments.AVERAGES`, as before where nothing moves; the factored ones,
            of which the caller sees to that; and (..., B, L) what the network gives.
        """
        factored = moments.factored(layout, state, seen.gradient, decays)
        spread = [x for x in moments.spread(layout, factored["factored"]) if x is not None]

        def observe(old: State, given: list[Any], used_lanes: Any, moves: Any | None) -> Moved:
            gradient, parameters, *spread = given
            new = {name: hold(moves, x, old[name])
                   for name, x in moments.averages(old, gradient, decays).items()}
            x = self._raw(new, moments.Spread(*spread), gradient, parameters, used_lanes)
            return Moved(new, [], [block_sums(ops.square(x), used_lanes)])

        def apply(
            state: State, given: list[Any], used_lanes: Any, moves: Any | None
        ) -> Moved:
            del state, moves  # Nothing is kept of it.
            gradient, parameters, momenta, mean_square, scale, *rest = given
            spread, more = rest[:count], rest[count:]
            x = self._raw(
                {"momenta": momenta, "mean_square": mean_square}, moments.Spread(*spread),
                gradient, parameters, used_lanes)
            return Moved({}, [network(x * scale, *more)], [])

        count = len(spread)
        first = sweep(
            observe, layout, {name: state[name] for name in moments.AVERAGES},
            [seen.gradient, seen.parameters, *spread], rows=0, sums=(self.size,), active=active,
            taken=taken)
        averages = {name: ops.cast(x, "float32") for name, x in first.state.items()}
        second = sweep(
            apply, layout, {}, [
                seen.gradient, seen.parameters, *averages.values(),
                self._scale(layout, first.sums[0]), *spread, *more],
            rows=1, sums=(), active=active, taken=taken)
        return first.state, factored, second.rows[0]

    def _raw(
        self, averages: State, spread: moments.Spread, gradient: Any, parameters: Any,
        used_lanes: Any,
    ) -> Any:
        """(F, ..., B, L) before they are brought to one size."""
        parts = moments.parts(averages, spread, gradient, self.epsilon, self.vector_epsilon)
        return moments.bounded(
            ops.concatenate(list(self.of(gradient, parameters, parts))), used_lanes)

    def _scale(self, layout: Layout, squares: Any) -> Any:
        """(F, ..., B, 1) by which inputs are multiplied, of sums of their squares, (F, ..., B)."""
        return layout.to_lanes(ops.rsqrt(layout.mean_of_blocks(squares) + self.norm_epsilon))
