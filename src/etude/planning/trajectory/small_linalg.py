"""Products and linear solves of small matrices, written out in elementwise operations.

XLA calls a library for every product and LAPACK for every factorization, and for small matrices in
a recursion over time these calls take longer than the arithmetic. XLA fuses elementwise operations
into the code around them: a step of the recursion takes half to a third of the time.
"""

from functools import reduce

import jax
import jax.numpy as jnp

from etude.types import Array

MAX_MULTIPLICATIONS = 1000  # of a product; larger ones call the library
MAX_ROWS = 4  # of a linear solve; larger ones call LAPACK


def matmul(*factors: Array) -> Array:
    """Multiply matrices and vectors from left to right, as `@` does."""
    return reduce(matmul_pair, factors)


def matmul_pair(A: Array, B: Array) -> Array:
    """Return A B for A [..., k] and B [k, ...]."""
    if A.size * B.size // len(B) > MAX_MULTIPLICATIONS:
        return jnp.tensordot(A, B, 1)
    return (A.reshape(*A.shape, *[1] * (B.ndim - 1)) * B).sum(A.ndim - 1)


def solve_spd(A: Array, B: Array) -> tuple[Array, Array]:
    """Return A⁻¹ B and whether A is positive definite; the solution is NaN where it is not.

    A is symmetric, [m, m], and B is [m, columns].
    """
    m = len(A)
    if m > MAX_ROWS:
        factor = jnp.linalg.cholesky(A)
        return jax.scipy.linalg.cho_solve((factor, True), B), jnp.isfinite(factor).all()
    rows, pivots = jnp.column_stack([A, B]), []
    # Gauss-Jordan elimination: A is positive definite where all pivots are positive
    for i in range(m):
        pivots.append(rows[i, i])
        row = rows[i] / rows[i, i]
        rows = jnp.where(jnp.arange(m)[:, None] == i, row, rows - rows[:, i, None] * row)
    is_positive_definite = (jnp.stack(pivots) > 0).all() & jnp.isfinite(rows).all()
    return jnp.where(is_positive_definite, rows[:, m:], jnp.nan), is_positive_definite
