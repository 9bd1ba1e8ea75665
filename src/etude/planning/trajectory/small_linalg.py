"""Linear algebra of a few rows, written out.

XLA calls a routine for every product and LAPACK for every factor, and in a recursion over time the
calls take longer than the work. What is written out is compiled into what is around it: a step of
the recursion takes half to a third of the time.
"""

from functools import reduce

import jax
import jax.numpy as jnp

from etude.types import Array

MAX_MULTIPLICATIONS, MAX_ROWS = 1000, 4  # that are written out at most, of a product and of a solve


def matmul(*factors: Array) -> Array:
    """The product of matrices and vectors, as of `@`, from left to right."""
    return reduce(matmul_pair, factors)


def matmul_pair(A: Array, B: Array) -> Array:
    """A B for A [..., k] and B [k, ...]."""
    if A.size * B.size // len(B) > MAX_MULTIPLICATIONS:
        return jnp.tensordot(A, B, 1)
    return (A.reshape(*A.shape, *[1] * (B.ndim - 1)) * B).sum(A.ndim - 1)


def solve_spd(A: Array, B: Array) -> tuple[Array, Array]:
    """A⁻¹ B for a symmetric A [m, m] and B [m, columns], and whether A is positive definite; NaN
    where it is not."""
    m = len(A)
    if m > MAX_ROWS:
        factor = jnp.linalg.cholesky(A)
        return jax.scipy.linalg.cho_solve((factor, True), B), jnp.isfinite(factor).all()
    rows, pivots = jnp.column_stack([A, B]), []
    # the elimination of Gauss and Jordan, whose pivots say whether A is definite
    for i in range(m):
        pivots.append(rows[i, i])
        row = rows[i] / rows[i, i]
        rows = jnp.where(jnp.arange(m)[:, None] == i, row, rows - rows[:, i, None] * row)
    definite = (jnp.stack(pivots) > 0).all() & jnp.isfinite(rows).all()
    return jnp.where(definite, rows[:, m:], jnp.nan), definite
