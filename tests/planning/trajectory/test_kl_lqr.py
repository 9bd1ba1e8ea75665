"""LQR within a bound of the divergence, beside dense linear algebra and its two limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.planning.trajectory.ddp import Expansion
from etude.planning.trajectory.kl_lqr import (
    GaussianController,
    controller_kl,
    convexify,
    kl_lqr,
    marginals,
    mean_cost_change,
    regulate,
)
from etude.planning.trajectory.lqr import LinearQuadratic, riccati_recursion
from etude.struct import replace

T, N, M = 6, 2, 2
solve, regulated = jax.jit(kl_lqr), jax.jit(regulate)
of_path = jax.jit(marginals)


def spd(random, size):
    root = random.normal(size=(size, size))
    return root @ root.T + np.eye(size)


@pytest.fixture(scope="module")
def case():
    """An expansion and a policy, both at random."""
    random = np.random.default_rng(0)
    expansion = Expansion(
        F=0.5 * random.normal(size=(T, N, N + M)),
        F_zz=None,
        c=random.normal(size=(T, N + M)),
        C=np.stack([spd(random, N + M) for _ in range(T)]),
        v=random.normal(size=N),
        V=spd(random, N),
    )
    policy = GaussianController(
        0.3 * random.normal(size=(T, M, N)),
        0.3 * random.normal(size=(T, M)),
        np.stack([0.1 * spd(random, M) for _ in range(T)]),
    )
    return jax.tree.map(jnp.float32, (expansion, policy))


def divergence_of_paths(F, one, other):
    """KL between the densities of all controls, by the Gaussian of their whole paths."""

    def distribution(controller):
        # noise w [T m] to controls u = G w + g, from δx = 0
        to_x, mean_x = np.zeros((N, T * M)), np.zeros(N)
        rows, means = [], []
        for t in range(T):
            root = np.linalg.cholesky(controller.covariance[t])
            to_u = controller.K[t] @ to_x
            to_u[:, t * M : (t + 1) * M] += root
            mean_u = controller.K[t] @ mean_x + controller.k[t]
            rows.append(to_u)
            means.append(mean_u)
            to_x = F[t] @ np.vstack([to_x, to_u])
            mean_x = F[t] @ np.concatenate([mean_x, mean_u])
        to_u = np.vstack(rows)
        return np.concatenate(means), to_u @ to_u.T

    (mean, covariance), (other_mean, other_covariance) = distribution(one), distribution(other)
    precision, shift = np.linalg.inv(other_covariance), mean - other_mean
    ratio = np.linalg.slogdet(other_covariance)[1] - np.linalg.slogdet(covariance)[1]
    return (np.trace(precision @ covariance) + shift @ precision @ shift - T * M + ratio) / 2


def test_the_divergence_is_that_of_the_gaussian_of_whole_paths(case):
    expansion, policy = case
    other = GaussianController(policy.K[::-1], -policy.k, 1.5 * policy.covariance[::-1])
    kl = controller_kl(other, policy, of_path(expansion.F, other)).sum()
    exact = divergence_of_paths(*jax.tree.map(np.float64, (expansion.F, other, policy)))
    np.testing.assert_allclose(kl, exact, rtol=1e-4)


@pytest.mark.parametrize("bound", [0.01, 0.3, 3.0])
def test_the_bound_is_kept_and_used(case, bound):
    expansion, policy = case
    result = solve(expansion, policy, bound)
    exact = divergence_of_paths(*jax.tree.map(np.float64, (expansion.F, result.controller, policy)))
    assert 0.95 * bound < exact < 1.02 * bound
    of_policy = mean_cost_change(expansion, of_path(expansion.F, policy).mean)
    assert result.cost_change < of_policy
    np.testing.assert_allclose(result.kl, exact, rtol=1e-2)


@pytest.mark.system
def test_no_controller_of_the_same_divergence_costs_less(case):
    """Expected cost by the moments of the path, and perturbations of the solution in every way."""
    expansion, policy = case
    eta = 0.7
    best, _ = regulated(expansion, policy, eta)

    @jax.jit
    def lagrangian(controller):
        path = marginals(expansion.F, controller)
        moment = path.covariance + path.mean[:, :, None] * path.mean[:, None, :]
        last = expansion.F[-1] @ path.mean[-1]
        last_moment = expansion.F[-1] @ moment[-1] @ expansion.F[-1].T
        cost = (expansion.C * moment).sum() / 2 + (expansion.c * path.mean).sum()
        cost += (expansion.V * last_moment).sum() / 2 + expansion.v @ last
        return cost + eta * controller_kl(controller, policy, path).sum()

    gradient = jax.jit(jax.grad(lagrangian))(best)
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_allclose(leaf, 0, atol=2e-4)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(jax.grad(lagrangian)(policy))) > 0.1


def test_a_large_multiplier_gives_the_policy_and_a_small_one_the_regulator_of_the_costs(case):
    expansion, policy = case
    far, _ = regulated(expansion, policy, 1e7)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), far, policy)
    free = solve(expansion, policy, 1e6)
    lqr = riccati_recursion(
        LinearQuadratic(expansion.F, expansion.C, c=expansion.c, V=expansion.V, v=expansion.v)
    )
    np.testing.assert_allclose(free.controller.K, lqr.K, atol=1e-4)
    np.testing.assert_allclose(free.controller.k, lqr.k, atol=1e-4)


def test_covariances_stay_positive_definite_where_the_policy_has_hardly_any_noise(case):
    expansion, policy = case
    for scale in (1e-6, 1e-20, 0.0):
        result = solve(expansion, replace(policy, covariance=scale * policy.covariance), 1.0)
        eigenvalues = np.linalg.eigvalsh(result.controller.covariance)
        assert np.isfinite(eigenvalues).all() and (eigenvalues > 0).all()


def test_negative_curvature_is_met_by_staying_near_the_policy(case):
    """Q_uu of the costs alone is not positive definite; the multiplier rises until it is."""
    expansion, policy = case
    concave = replace(expansion, C=-expansion.C)
    result = solve(concave, policy, 1.0)
    assert result.kl <= 1.0
    assert (np.linalg.eigvalsh(result.controller.covariance) > 0).all()
    convex = convexify(concave)
    np.testing.assert_allclose(convex.C, 0, atol=1e-4)
    mixed = convexify(replace(expansion, C=expansion.C - 3 * jnp.eye(N + M))).C
    values, vectors = np.linalg.eigh(np.float64(expansion.C) - 3 * np.eye(N + M))
    expected = np.einsum("tij,tj,tkj->tik", vectors, np.maximum(values, 0), vectors)
    np.testing.assert_allclose(mixed, expected, atol=1e-4)
