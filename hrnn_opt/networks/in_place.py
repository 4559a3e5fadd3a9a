"""What takes the time of a step on PyTorch, operation by operation, with fewer passes over memory.

Each function is another one's, to rounding, where nothing is recorded for a derivative (see
`backend.overwrites`): what it makes on the way is written over, and functions that PyTorch has no
vector code for are put together from others.
"""

from __future__ import annotations

from typing import Any


def asinh(x: Any, largest: float) -> Any:
    """`functions.asinh`, by one logarithm: log1p(s + s^2 / (1 + sqrt(1 + s^2))), with s = |x|.
    PyTorch's own takes six times as long, and so does its selection of one of two formulas."""
    import torch

    size = torch.abs(x).clamp_(max=largest)
    found = torch.addcmul(torch.ones((), device=x.device), size, size).sqrt_().add_(1.0)
    return found.reciprocal_().mul_(size).mul_(size).add_(size).log1p_().copysign_(x)


def running(kept: Any, old: Any, new: Any) -> Any:
    """`accumulators.running`."""
    import torch

    return torch.lerp(new, old, kept)


def gru(gates: Any, candidate: Any, bias: Any, x: Any, hidden: Any) -> Any:
    """`BiasGRU.call`.

    Args:
        gates, candidate: kernels, (n + m, 2 m) and (n + m, m).
        bias: (3 m, ...), its own and what is injected.
        x, hidden: (n, ...) and (m, ...).
    """
    import torch

    n, m, shape = x.shape[0], hidden.shape[0], tuple(hidden.shape)
    # tanh(a) = 2 sigmoid(2 a) - 1, since PyTorch's tanh takes four times as long as its sigmoid:
    # the candidate's sum is doubled by its weights, to the bit.
    candidate = 2.0 * candidate
    bias = torch.cat([bias[: 2 * m], 2.0 * bias[2 * m :]])
    sums = torch.mm(torch.cat([gates[:n], candidate[:n]], dim=1).t(), x.reshape(n, -1))
    sums.view(3 * m, *shape[1:]).add_(bias)
    flat = hidden.reshape(m, -1).to(gates.dtype)
    read = sums[: 2 * m].addmm_(gates[n:].t(), flat).sigmoid_()
    proposal = sums[2 * m :].addmm_(candidate[n:].t(), read[:m].mul_(flat))
    proposal.sigmoid_().mul_(2.0).sub_(1.0)
    return torch.lerp(proposal, flat, read[m:]).view(shape)
