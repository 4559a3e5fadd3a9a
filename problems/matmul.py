"""The search for fast matrix multiplication algorithms (released program `MatMulAlgorithm`)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from problems.problem import Array, BasicProblem, Instance, Parameters, is_whole
from problems.registry import register


@functools.cache
def _products(n: int) -> np.ndarray:
    """C (n^4, n^2): row (i, j) is vec(E_i E_j) for the one-hot matrices E."""
    units = np.eye(n * n, dtype=np.float32).reshape(-1, n, n)
    return np.einsum("ipq,jqr->ijpr", units, units).reshape(n**4, n * n)


@register
@dataclasses.dataclass(frozen=True, repr=False)
class MatMulAlgorithm(BasicProblem):
    """How far the factors A, B (n^2, k) are from multiplying n x n matrices with k products.

    With P (n^4, k), P_(ij) = A_i * B_j, and C (n^4, n^2) the true products of one-hot matrices,

        f(A, B) = min_D ||P D - C||^2,

    the third factor D being least squares. f = 0 means an algorithm of complexity
    O(n^(log_n k)). Columns of A and B start with norm 1.

    D solves (P^T P + ridge I) D = P^T C. P^T P = (A^T A) * (B^T B) becomes singular where columns
    coincide; the ridge, 1e-7 of its mean diagonal, keeps its inverse and so all derivatives
    finite. f is then taken from the residual, a sum of squares. The derivatives follow from
    those of f in D, which vanish at the minimum up to the ridge.

    Args:
      n: the size of the matrices, at least 2.
      k: the number of products, from n^2 to n^3.
    """

    n: int
    k: int

    def check(self) -> None:
        super().check()
        self.require_count("n", least=2)
        low, high = self.n**2, self.n**3
        self.require(
            is_whole(self.k) and low <= self.k <= high,
            "k",
            f"an integer from n^2 = {low} to n^3 = {high}",
        )

    def initial_parameters(self, key: Array, instance: Instance) -> Parameters:
        a, b = jax.random.normal(key, (2, self.n**2, self.k))
        return tuple(factor / jnp.linalg.norm(factor, axis=0) for factor in (a, b))

    def objective(self, parameters: Parameters, instance: Instance) -> Array:
        a, b = parameters
        products = jnp.asarray(_products(self.n))
        p = (a[:, None, :] * b[None, :, :]).reshape(-1, self.k)
        gram = (a.T @ a) * (b.T @ b)
        ridge = 1e-7 * jnp.trace(gram) / self.k + 1e-30
        d = jnp.linalg.solve(gram + ridge * jnp.eye(self.k), p.T @ products)
        return jnp.sum((p @ d - products) ** 2)
