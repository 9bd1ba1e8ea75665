"""LQR whose controller stays near a given policy: the trajectory step of guided policy search.

    minimize over p:   Σₜ E_p[costₜ]   such that   Σₜ E_p[KL(p(·|xₜ) ‖ π(·|xₜ))] ≤ bound

p and π are time-varying linear-Gaussian controllers around a trajectory of states x̂ and controls
û, with δx = x - x̂ and δu = u - û:

    δu ~ N(K δx + k, Σ)

For a multiplier η ≥ 0 of the bound, the Lagrangian is again linear-quadratic, with the additional
cost -η log π(u|x), and p is its regulator, whose covariance is that of the soft minimum:

    Q, q = cost-to-go of costₜ - η log π,    Σ = η Q_uu⁻¹

As η → ∞, p becomes π; as η → 0, the regulator of the costs alone. The divergence falls with η, so
that bisection finds the smallest η within the bound (Levine & Abbeel, 2014, "Learning Neural
Network Policies with Guided Policy Search under Unknown Dynamics"; the divergence from a policy of
all trajectories: Montgomery & Levine, 2016, "Guided Policy Search via Approximate Mirror Descent").
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from etude.planning.trajectory.ddp import Expansion
from etude.planning.trajectory.lqr import Quadratic, gains, quadratic_q, value_of_policy
from etude.planning.trajectory.small_linalg import matmul, solve_spd
from etude.struct import replace, struct
from etude.types import Array

LOWEST_LOG_ETA, HIGHEST_LOG_ETA = -16.0, 23.0  # of the bisection: η from 1e-7 to 1e10
BISECTIONS = 20  # the last interval of log η has a width of 4e-5
MIN_VARIANCE = 1e-8  # added to covariances of the policy, so that none is singular


@struct
class GaussianController:
    """The controller δu ~ N(Kₜ δx + kₜ, Σₜ) of T steps."""

    K: Array  # [T, m, n]: feedback gains
    k: Array  # [T, m]: feedforward terms
    covariance: Array  # [T, m, m]: Σ


@struct
class KLRegulator:
    """The controller within the bound, and what the expansion expects of it."""

    controller: GaussianController
    eta: Array  # []: multiplier of the bound
    kl: Array  # []: Σₜ E[KL(p ‖ π)], nats
    cost_change: Array  # []: predicted change of the cost of the mean trajectory


class Marginals(NamedTuple):
    """Where a controller leads on the linear dynamics."""

    mean: Array  # [T, n + m]: of [δx; δu]
    covariance: Array  # [T, n + m, n + m]


def kl_lqr(expansion: Expansion, policy: GaussianController, bound: Array | float) -> KLRegulator:
    """Return the controller of least expected cost whose divergence from `policy` is in the bound.

    Args:
        expansion: derivatives of the problem along the trajectory of T steps. Second derivatives of
            the dynamics are left out, as iLQR does.
        policy: the linearized policy, with positive definite covariances.
        bound: of the divergence, summed over the steps, in nats.

    Where Q_uu is not positive definite, η counts as too small: the divergence from the policy is
    the ridge that makes it so. Where no η keeps to the bound, the controller is the policy.
    """

    policy = replace(
        policy, covariance=policy.covariance + MIN_VARIANCE * jnp.eye(policy.k.shape[1])
    )

    def bisect(state, _):
        low, high, best = state
        log_eta = (low + high) / 2
        controller, is_positive_definite = regulate(expansion, policy, jnp.exp(log_eta))
        path = marginals(expansion.F, controller)
        kl = controller_kl(controller, policy, path).sum()
        is_within = is_positive_definite & (kl <= bound)  # a divergence of NaN is not
        change = mean_cost_change(expansion, path.mean)
        found = KLRegulator(controller, jnp.exp(log_eta), kl, change)
        best = jax.tree.map(lambda new, old: jnp.where(is_within, new, old), found, best)
        low, high = jnp.where(is_within, low, log_eta), jnp.where(is_within, log_eta, high)
        return (low, high, best), None

    low = jnp.full_like(expansion.c[0, 0], LOWEST_LOG_ETA)
    high, zero = jnp.full_like(low, HIGHEST_LOG_ETA), jnp.zeros_like(low)
    # the policy itself, where no multiplier keeps to the bound
    initial_state = low, high, KLRegulator(policy, jnp.exp(high), zero, zero)
    return jax.lax.scan(bisect, initial_state, length=BISECTIONS)[0][2]


def regulate(
    expansion: Expansion, policy: GaussianController, eta: Array | float
) -> tuple[GaussianController, Array]:
    """Return the regulator of costₜ - η log π(u|x), and whether Q_uu is positive definite.

    The second is a bool [], of all steps.
    """
    n = len(expansion.v)
    identity = jnp.eye(policy.k.shape[1], dtype=policy.k.dtype)

    def step(next_value, terms):
        F, C, c, K_policy, k_policy, covariance = terms
        precision, _ = solve_spd(covariance, identity)
        deviation = jnp.hstack([-K_policy, identity])  # of z = [δx; δu] from the policy's mean, + k
        weighted = matmul(deviation.T, precision)
        C = C + eta * matmul(weighted, deviation)
        c = c - eta * matmul(weighted, k_policy)
        q_function = quadratic_q(F, jnp.zeros(n, F.dtype), C, c, next_value)
        K, k, is_positive_definite = gains(q_function, n)
        inverse, _ = solve_spd(q_function.matrix[n:, n:], identity)
        return value_of_policy(q_function, K, k), (K, k, eta * inverse, is_positive_definite)

    final_value = Quadratic(expansion.V, expansion.v, jnp.zeros_like(expansion.v[0]))
    terms = (expansion.F, expansion.C, expansion.c, policy.K, policy.k, policy.covariance)
    _, (K, k, covariance, is_positive_definite) = jax.lax.scan(
        step, final_value, terms, reverse=True
    )
    return GaussianController(K, k, covariance), is_positive_definite.all()


def marginals(F: Array, controller: GaussianController) -> Marginals:
    """Where `controller` leads on the dynamics δxₜ₊₁ = Fₜ [δxₜ; δuₜ], F [T, n, n + m], from 0."""
    n = F.shape[1]

    def step(state, terms):
        (mean, covariance), (F, K, k, noise) = state, terms
        to_z = jnp.vstack([jnp.eye(n, dtype=F.dtype), K])  # of δx to [δx; K δx]
        mean = matmul(to_z, mean).at[n:].add(k)
        covariance = matmul(to_z, covariance, to_z.T).at[n:, n:].add(noise)
        after = matmul(F, mean), matmul(F, covariance, F.T)
        return after, Marginals(mean, covariance)

    start = jnp.zeros(n, F.dtype), jnp.zeros((n, n), F.dtype)
    return jax.lax.scan(step, start, (F, controller.K, controller.k, controller.covariance))[1]


def controller_kl(one: GaussianController, other: GaussianController, path: Marginals) -> Array:
    """E[KL(one(·|xₜ) ‖ other(·|xₜ))] of each step, [T], over the states of `path`, in nats.

        ½ [tr(Σ₂⁻¹ Σ₁) - m + log |Σ₂| / |Σ₁| + E |Δμ|²],   |Δμ|² = Δμᵀ Σ₂⁻¹ Δμ

    Δμ is the difference of the means at δxₜ.
    """

    def of_step(one, other, path):
        n = one.K.shape[1]
        gain = one.K - other.K
        mean = gain @ path.mean[:n] + one.k - other.k
        second_moment = jnp.outer(mean, mean) + gain @ path.covariance[:n, :n] @ gain.T
        return gaussian_kl(one.covariance, other.covariance, second_moment)

    return jax.vmap(of_step)(one, other, path)


def gaussian_kl(one: Array, other: Array, second_moment: Array) -> Array:
    """E[KL(N(μ₁, Σ₁) ‖ N(μ₂, Σ₂))], [], from E[Δμ Δμᵀ] of Δμ = μ₁ - μ₂; all are [m, m]."""
    precision = jnp.linalg.inv(other)
    log_ratio = jnp.linalg.slogdet(other)[1] - jnp.linalg.slogdet(one)[1]
    return ((precision * (one + second_moment)).sum() - len(one) + log_ratio) / 2


def convexify(expansion: Expansion) -> Expansion:
    """The expansion with costs of no negative curvature: C and V without negative eigenvalues."""

    def positive_part(matrix):
        eigenvalues, vectors = jnp.linalg.eigh(matrix)
        return (vectors * jnp.maximum(eigenvalues, 0)[..., None, :]) @ vectors.mT

    return replace(expansion, C=positive_part(expansion.C), V=positive_part(expansion.V))


def mean_cost_change(expansion: Expansion, mean: Array) -> Array:
    """The predicted change of the cost by a mean path [δx; δu], [T, n + m], []."""
    last = expansion.F[-1] @ mean[-1]
    steps = jnp.einsum("ti,tij,tj->", mean, expansion.C, mean) / 2 + (expansion.c * mean).sum()
    return steps + last @ expansion.V @ last / 2 + expansion.v @ last
