"""What is written out, and what is left to the routines, are what NumPy computes."""

import jax
import numpy as np
import pytest

from etude.planning.trajectory.small_linalg import MAX_ROWS, matmul, solve_spd

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "shapes",
    [
        ((3,), (3,)),
        ((3, 4), (4,)),
        ((3,), (3, 4)),
        ((2, 3), (3, 4)),
        ((3,), (3, 4, 4)),
        ((2, 3), (3, 4), (4,)),
        ((20, 30), (30, 40)),
        ((40, 4), (4, 40), (40, 3)),
    ],
)
def test_a_product_is_that_of_numpy(shapes):
    factors = [RNG.normal(size=shape) for shape in shapes]
    expected = factors[0]
    for factor in factors[1:]:
        expected = np.tensordot(expected, factor, 1)
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jit(matmul)(*factors), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("m", [1, 2, MAX_ROWS, MAX_ROWS + 1])
def test_a_solve_is_that_of_numpy_and_says_what_is_not_definite(m):
    root, B = RNG.normal(size=(m, m)), RNG.normal(size=(m, 3))
    A = root @ root.T + 0.1 * np.eye(m)
    values, vectors = np.linalg.eigh(A)
    indefinite = vectors @ np.diag([-1, *values[1:]]) @ vectors.T
    with jax.enable_x64(True):
        x, definite = map(
            np.asarray,
            jax.jit(jax.vmap(solve_spd, (0, None)))(
                np.stack([A, indefinite, np.full((m, m), np.nan)]), B
            ),
        )
    np.testing.assert_allclose(x[0], np.linalg.solve(A, B), rtol=1e-9)
    assert definite.tolist() == [True, False, False] and np.isnan(x[1:]).all()
