"""Functions that networks share, with derivatives that compilers do not find by themselves.

Arrays are feature-major: features come first, then any number of axes of things that share the
weights (blocks and lanes of parameters, tensors, or nothing).
"""

from __future__ import annotations

from typing import Any

from keras import ops

from hrnn_opt.networks import in_place
from hrnn_opt.places import backend

# asinh(x) / x in powers of x^2, for |x| < 1/2: interpolated at Chebyshev's nodes.
_ASINH_SERIES = (1.0, -0.16666134, 0.07482421, -0.04257084, 0.01988876)


def affine(kernel: Any, x: Any, bias: Any | None = None) -> Any:
    """`kernel^T x + bias` over the first axis: (n, m), (n, ...) and (m,) give (m, ...)."""
    shape = tuple(x.shape)
    flat, transposed = ops.reshape(x, (shape[0], -1)), ops.transpose(kernel)
    y = ops.matmul(transposed, flat) if backend.overwrites() else _product(transposed, flat)
    if bias is not None:
        y = y + ops.expand_dims(bias, -1)
    return ops.reshape(y, (-1, *shape[1:]))


@ops.custom_gradient
def _product(matrix: Any, x: Any) -> Any:
    """(m, n) and (n, N), tensors and no variables: (m, N). The derivative is written out to keep
    features in front: what XLA makes of autodiff's has them last, and transposes N x n matrices
    back and forth."""

    def backward(upstream: Any) -> tuple[Any, Any]:
        return ops.einsum("mN,nN->mn", upstream, x), ops.matmul(ops.transpose(matrix), upstream)

    return ops.matmul(matrix, x), backward


def roots(x: Any, count: int) -> Any:
    """(count, ...): x, its square root, the square root of that and so on."""

    @ops.custom_gradient
    def powers_of(x: Any) -> Any:
        powers = [x]
        for _ in range(count - 1):
            powers.append(ops.sqrt(powers[-1]))

        def backward(upstream: Any) -> Any:
            # d x^p / dx = p x^p / x. It is 0 at 0, where decays start: inf times 0 would be NaN.
            above_zero = x > 1e-30
            total = sum(0.5**s * upstream[s] * power for s, power in enumerate(powers))
            return ops.where(above_zero, total / ops.where(above_zero, x, 1.0), 0.0)

        return ops.stack(powers), backward

    return powers_of(x)


def asinh(x: Any) -> Any:
    """asinh at 0.6 times the cost of the backends' own, which XLA spends a third of the step on.
    Exact to rounding up to |x| = 1e9, where it stays."""
    return in_place.asinh(x, 1e9) if backend.overwrites() else _asinh(x)


@ops.custom_gradient
def _asinh(x: Any) -> Any:
    size = ops.minimum(ops.abs(x), 1e9)
    square = size * size

    def backward(upstream: Any) -> Any:
        return upstream * ops.rsqrt(1.0 + square)

    series = 0.0
    for coefficient in _ASINH_SERIES[::-1]:
        series = series * square + coefficient
    logarithm = ops.where(x < 0, -1.0, 1.0) * ops.log(size + ops.sqrt(1.0 + square))
    return ops.where(size < 0.5, x * series, logarithm), backward


@ops.custom_gradient
def finite_backward(x: Any) -> Any:
    """x, with derivatives that stay within +-1e12: where steps are chaotic, those of a whole run
    leave 32 bits."""

    def backward(upstream: Any) -> Any:
        return ops.clip(upstream, -1e12, 1e12)

    return x * 1.0, backward


def straight_through_clip(x: Any, bound: float) -> Any:
    """Clip to +-bound with the gradient of the identity."""
    return x + ops.stop_gradient(ops.clip(x, -bound, bound) - x)
