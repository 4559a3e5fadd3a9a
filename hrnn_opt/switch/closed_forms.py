"""The optimizers that make the loss fall fastest, for each belief about which steps are safe.

With g minus the gradient of the loss, an optimizer is a positive semidefinite matrix Q that gives
the motion u = Q g. The loss then falls at the rate g' Q g, on average at the power tr(Q S) with
S = E[g g']. Within a convex set of Q's, the trust region, the greedy optimizer has the largest
power (Lee and Lee, "Greedy Alignment Principle for Optimizer Selection", arXiv 2512.06370, whose
theorem 2.1 says that this maximum is the support function of the set at S).

| trust region, budget B | greedy optimizer | function |
|---|---|---|
| norm(Q)_F <= B | B S / norm(S)_F | `frobenius` |
| largest eigenvalue of Q <= B | B I: gradient descent at the rate B | `spectral` |
| tr Q <= B | B v v', v the leading eigenvector of S | `trace` |
| largest eigenvalue <= b and tr Q <= B | b on leading eigenvectors, the rest on the next
| `water_filling` |
| E[u' M u] <= B^2 | B inv(M) / sqrt(tr(inv(M) S)): natural gradient, AdaGrad, Newton | `metric` |
| Q diagonal, sum of c_i q_i^2 <= B^2 | q_i = B (s_i^2 / c_i) / sqrt(sum of s_j^4 / c_j)
| `diagonal` |
| Q diagonal, E[u_i^2] <= B^2 for each i | q_i = B / s_i: Adam's preconditioner | `coordinates` |
| the same, in the eigenbases of Kronecker factors | as in SOAP | `eigenbasis` |
| a matrix's step, its spectral norm <= B | B times the polar factor: Muon | `orthogonal` |
| a filter of gradients h, norm(h) <= B | B R / norm(R), R the autocorrelation
| `matched_filter` |

The paper names the families called Frobenius, spectral, Lyapunov and diagonal; with E[u' M u] the
stationarity condition is a Lyapunov equation, and that is what is taken for it here. Each solution
follows in a line from the Cauchy-Schwarz inequality of the constraint's inner product, or from the
dual norm; each docstring says from which. A budget is a positive number.

Dimension letters: N parameters, m x n entries of a matrix, L lags.
"""

from __future__ import annotations

from typing import Any

from keras import ops


def power(optimizer: Any, moment: Any) -> Any:
    """tr(Q S), the mean rate at which the loss falls (section 2 of the paper).

    Args:
        optimizer: (N, N) Q; or (N,) its diagonal, with that of S.
        moment: (N, N) S, in squares of the gradient's unit; or (N,) its diagonal.

    Returns:
        (), in units of the loss a step.
    """
    return ops.sum(optimizer * moment)


def frobenius(moment: Any, budget: float) -> Any:
    """The Frobenius family: norm(Q)_F <= B. Cauchy-Schwarz: tr(Q S) <= norm(Q)_F norm(S)_F.

    Args:
        moment: (N, N) S, not 0.
        budget: B.

    Returns:
        (N, N) B S / norm(S)_F. It favours what is already large.
    """
    return budget * moment / ops.sqrt(ops.sum(ops.square(moment)))


def spectral(moment: Any, budget: float) -> Any:
    """The spectral family: no eigenvalue of Q above B. Duality: tr(Q S) <= B tr S.

    Args:
        moment: (N, N) S, of which only the size is read.
        budget: B.

    Returns:
        (N, N) B I: gradient descent with the learning rate B.
    """
    return budget * ops.eye(moment.shape[-1], dtype=moment.dtype)


def trace(moment: Any, budget: float) -> Any:
    """tr Q <= B. Duality: tr(Q S) <= tr Q times the largest eigenvalue of S.

    Args:
        moment: (N, N) S.
        budget: B.

    Returns:
        (N, N) B v v', v the leading eigenvector of S.
    """
    return water_filling(moment, budget, budget)


def water_filling(moment: Any, largest: float, budget: float) -> Any:
    """No eigenvalue of Q above b, and tr Q <= B: gradient descent in the leading subspace.

    Args:
        moment: (N, N) S.
        largest: b.
        budget: B.

    Returns:
        (N, N) with the eigenvectors of S: eigenvalue b on the floor(B / b) leading ones, what is
        left of B on the next (von Neumann's trace inequality, and a linear program in eigenvalues).
    """
    values, vectors = ops.eigh(moment)
    before = largest * ops.cast(ops.arange(values.shape[-1] - 1, -1, -1), values.dtype)
    filled = ops.clip(budget - before, 0.0, largest)
    return ops.matmul(vectors * filled, ops.transpose(vectors))


def metric(moment: Any, measure: Any, budget: float) -> Any:
    """The mean square step in a metric, E[u' M u] = tr(M Q S Q) <= B^2. Cauchy-Schwarz on
    M^(1/2) Q S^(1/2) and M^(-1/2) S^(1/2).

    M = I: gradient descent over the gradient's root mean square. M = the Fisher matrix: natural
    gradient. M = S^(1/2): AdaGrad with full matrices. M = the Hessian: Newton.

    Args:
        moment: (N, N) S, not 0.
        measure: (N, N) M, positive definite.
        budget: B, a root mean square step in that metric.

    Returns:
        (N, N) B inv(M) / sqrt(tr(inv(M) S)).
    """
    inverse = ops.inv(measure)
    return budget * inverse / ops.sqrt(ops.sum(inverse * moment))


def diagonal(squares: Any, costs: Any, budget: float) -> Any:
    """The diagonal family: sum of c_i q_i^2 <= B^2. Cauchy-Schwarz on sqrt(c_i) q_i and
    s_i^2 / sqrt(c_i).

    With costs s_i^3 it is proportional to 1 / s_i: Adam's preconditioner, and RMSProp's.

    Args:
        squares: (N,) s_i^2 = E[g_i^2], the diagonal of S, not all 0.
        costs: (N,) c_i, positive.
        budget: B.

    Returns:
        (N,) q_i = B (s_i^2 / c_i) / sqrt(sum of s_j^4 / c_j).
    """
    return budget * squares / costs / ops.sqrt(ops.sum(ops.square(squares) / costs))


def coordinates(squares: Any, budget: float) -> Any:
    """The diagonal family with a budget for each coordinate: E[u_i^2] = q_i^2 s_i^2 <= B^2, which
    is met with equality since the power grows with every q_i.

    Args:
        squares: (N,) s_i^2 = E[g_i^2], positive.
        budget: B, the learning rate of Adam and RMSProp.

    Returns:
        (N,) q_i = B / s_i.
    """
    return budget / ops.sqrt(squares)


def eigenbasis(gradient: Any, left: Any, right: Any, squares: Any, budget: float) -> Any:
    """The step of `coordinates` in the eigenbases of Kronecker factors, as in SOAP.

    Args:
        gradient: (m, n) G.
        left, right: (m, m) E[G G'] and (n, n) E[G' G].
        squares: (m, n) E[.^2] of the gradient's entries in these eigenbases, in the order of
            eigenvalues from low to high; positive.
        budget: B.

    Returns:
        (m, n) the step.
    """
    _, u = ops.eigh(left)
    _, v = ops.eigh(right)
    turned = ops.matmul(ops.transpose(u), ops.matmul(gradient, v))
    step = turned * coordinates(squares, budget)
    return ops.matmul(u, ops.matmul(step, ops.transpose(v)))


def orthogonal(gradient: Any, budget: float) -> Any:
    """The step of a matrix whose spectral norm is at most B. The dual of the spectral norm is the
    nuclear one: tr(U' G) <= B times the sum of the singular values of G.

    Args:
        gradient: (m, n) G, of full rank.
        budget: B.

    Returns:
        (m, n) B times the polar factor of G: Muon's step, which orthogonalises by iteration.
    """
    left, _, right = ops.svd(gradient, full_matrices=False)
    return budget * ops.matmul(left, right)


def one_pole(decay: float, length: int) -> Any:
    """(L,) the filter of SGD's momentum, h_k = decay^k (section 3 of the paper)."""
    return ops.power(ops.cast(decay, "float32"), ops.cast(ops.arange(length), "float32"))


def filter_power(taps: Any, autocorrelation: Any) -> Any:
    """The power of an optimizer with memory, u_t = sum of h_k g_(t-k): the inner product of filter
    and autocorrelation (section 3 of the paper).

    Args:
        taps: (L,) h_k.
        autocorrelation: (L,) R(k) = E[g_t . g_(t-k)].

    Returns:
        () the sum of h_k R(k).
    """
    return ops.sum(taps * autocorrelation)


def matched_filter(autocorrelation: Any, budget: float) -> Any:
    """The filter of norm B with the largest power: the one that has the gradient's own memory.
    Cauchy-Schwarz on h and R. A choice among momenta approximates it.

    Args:
        autocorrelation: (L,) R(k), not all 0.
        budget: B.

    Returns:
        (L,) B R / norm(R).
    """
    return budget * autocorrelation / ops.sqrt(ops.sum(ops.square(autocorrelation)))
