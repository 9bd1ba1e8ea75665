"""Importance corrections: what one policy would have earned, from another's experience.

Arrays are [time, ...], with `terminated`, `done` and `next_value` as in `returns`. `log_ratio` is
log π - log β of the actions taken: π is the policy to learn about, β the one that acted, and ρ = π
/ β. Weights are products of ratios within one episode, as far as it lies in the stretch. They are
summed as logarithms, and held to at most `clip`, which trades bias for variance; inf: not.

The gradient of J(π) is estimated by the mean over episodes of Σₜ γᵗ ∇log π(aₜ | sₜ) times one of

    trajectory_weight × discounted_returns         unbiased: the ratio of whole trajectories
    reward_to_go                                   unbiased: neither past rewards nor future ratios
                                                   count where they cannot
    reward_to_go, weigh_later=False                returns are those of β: a step of policy
    iteration first_order_weight × discounted_returns        states, too, are those of β: off in
    proportion to π - β
"""

import math

import jax
import jax.numpy as jnp

from etude.estimators.returns import discounted_returns
from etude.types import Array


def trajectory_weight(log_ratio: Array, done: Array, clip: float | Array = math.inf) -> Array:
    """ρ₁ ⋯ ρ_T over the episode that a step is in, one number for all its steps: p_π(τ) /
    p_β(τ)."""
    so_far = log_cumulative_ratio(log_ratio, done)

    def backward(whole, step):
        so_far, done = step
        whole = jnp.where(done, so_far, whole)
        return whole, whole

    return clipped_weight(jax.lax.scan(backward, so_far[-1], (so_far, done), reverse=True)[1], clip)


def per_decision_weight(log_ratio: Array, done: Array, clip: float | Array = math.inf) -> Array:
    """ρ₁ ⋯ ρₜ from the episode's first step to this one: what comes later cannot change what has
    been (Precup et al., 2000)."""
    return clipped_weight(log_cumulative_ratio(log_ratio, done), clip)


def first_order_weight(log_ratio: Array, clip: float | Array = math.inf) -> Array:
    """ρₜ, of the step alone, the notes' first-order approximation: how often π comes to a state is
    taken for how often β does."""
    return clipped_weight(log_ratio, clip)


def log_cumulative_ratio(log_ratio: Array, done: Array) -> Array:
    """log ρ₁ + ... + log ρₜ over the steps of the episode so far."""

    def forward(before, step):
        log_ratio, done = step
        so_far = before + log_ratio
        return jnp.where(done, 0, so_far), so_far

    return jax.lax.scan(forward, jnp.zeros_like(log_ratio[0]), (log_ratio, done))[1]


def clipped_weight(log_weight: Array, clip: float | Array) -> Array:
    return jnp.exp(jnp.minimum(log_weight, jnp.log(clip)))


def per_decision_returns(
    log_ratio: Array,
    reward: Array,
    next_value: Array,
    terminated: Array,
    done: Array,
    discount: float | Array,
    clip: float | Array = math.inf,
) -> Array:
    """Returns of π, Q^π(sₜ, aₜ) in expectation, each reward weighted by the ratios after t that led
    to it.

        Gₜ = rₜ + γ ρₜ₊₁ Gₜ₊₁ inside an episode,   Gₜ = rₜ + γ (1 - terminatedₜ) V(sₜ₊₁) at its last
        step

    V is the value of π. `clip` is that of each ratio.
    """

    def backward(later, step):
        ratio, reward, next_value, terminated, done = step
        total = reward + discount * jnp.where(done, ~terminated * next_value, later)
        return ratio * total, total

    steps = clipped_weight(log_ratio, clip), reward, next_value, terminated, done
    return jax.lax.scan(backward, next_value[-1], steps, reverse=True)[1]


def reward_to_go(
    log_ratio: Array,
    reward: Array,
    next_value: Array,
    terminated: Array,
    done: Array,
    discount: float | Array,
    weigh_later: bool = True,
    clip: float | Array = math.inf,
) -> Array:
    """What multiplies ∇log π(aₜ | sₜ) in the off-policy policy gradient with causality.

        (ρ₁ ⋯ ρₜ) Σₖ γᵏ⁻ᵗ (ρₜ₊₁ ⋯ ρₖ) rₖ,   k ≥ t

    The notes let the second product begin at t, where ρₜ would count twice. Without `weigh_later`
    there is none. `clip` is that of the first product, and of each later ratio.
    """
    rest = reward, next_value, terminated, done, discount
    later = (
        per_decision_returns(log_ratio, *rest, clip) if weigh_later else discounted_returns(*rest)
    )
    return per_decision_weight(log_ratio, done, clip) * later


def vtrace(
    log_ratio: Array,
    reward: Array,
    value: Array,
    next_value: Array,
    terminated: Array,
    done: Array,
    discount: float | Array,
    lambda_: float | Array = 1.0,
    *,
    rho_clip: float | Array = 1.0,
    c_clip: float | Array = 1.0,
) -> tuple[Array, Array]:
    """Value targets and the advantages of a policy gradient, from a policy that lags behind
    (Espeholt et al., 2018, eq. 1).

        δₜ = rₜ + γ (1 - terminatedₜ) V(sₜ₊₁) - V(sₜ)
        vₜ = V(sₜ) + ρₜ δₜ + γ cₜ (1 - doneₜ) (vₜ₊₁ - V(sₜ₊₁)),   ρₜ = min(ρ̄, π / β),   cₜ = λ min(c̄, π / β)
        Aₜ = ρₜ (δₜ + γ λ (1 - doneₜ) (vₜ₊₁ - V(sₜ₊₁)))

    ρ̄ = `rho_clip` decides which policy's value is learned, that of π at inf; c̄ = `c_clip`, no
    higher than ρ̄, only how fast. λ = `lambda_`; the paper writes A for λ = 1, where its bracket is
    rₜ + γ vₜ₊₁ - V(sₜ). On policy and with limits of at least 1, v are the λ-returns and A those of
    `returns.gae`.
    """
    error = reward + discount * ~terminated * next_value - value
    rho, c = clipped_weight(log_ratio, rho_clip), lambda_ * clipped_weight(log_ratio, c_clip)

    def backward(later, step):  # vₜ₊₁ - V(sₜ₊₁)
        error, rho, c, done = step
        later = jnp.where(done, 0, later)
        correction = rho * error + discount * c * later
        return correction, (correction, rho * (error + discount * lambda_ * later))

    steps = error, rho, c, done
    correction, advantage = jax.lax.scan(backward, jnp.zeros_like(error[0]), steps, reverse=True)[1]
    return value + correction, advantage
