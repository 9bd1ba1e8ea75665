"""Importance sampling corrections: returns of one policy from the experience of another.

Arrays are [time, ...], with `terminated`, `done` and `next_value` as in `returns`. `log_ratio` is
log π - log β of the actions taken, where π is the target policy, β the behavior policy and ρ = π /
β. Weights are products of ratios over the steps of one episode that are in the segment. They are
summed as logarithms and clipped to at most `clip`, which trades bias for variance; the default,
infinity, does not clip.

The gradient of J(π) is estimated by the mean over episodes of Σₜ γᵗ ∇log π(aₜ | sₜ) times one of

    trajectory_weight × discounted_returns         unbiased: the ratio of whole trajectories
    reward_to_go                                   unbiased: without past rewards, and without the
                                                   ratios after each reward
    reward_to_go, correct_returns=False            biased: the returns are those of β, as in one
                                                   step of policy iteration
    first_order_weight × discounted_returns        biased: the states, too, are those of β; the bias
                                                   is of the order of π - β
"""

import math

import jax
import jax.numpy as jnp

from etude.estimators.returns import discounted_returns
from etude.types import Array


def trajectory_weight(log_ratio: Array, done: Array, clip: float | Array = math.inf) -> Array:
    """p_π(τ) / p_β(τ) = ρ₁ ⋯ ρ_T of the episode of each step, equal for all its steps."""
    cumulative = log_cumulative_ratio(log_ratio, done)

    def backward(total, step):
        cumulative, done = step
        total = jnp.where(done, cumulative, total)
        return total, total

    steps = cumulative, done
    total = jax.lax.scan(backward, cumulative[-1], steps, reverse=True)[1]
    return clipped_weight(total, clip)


def per_decision_weight(log_ratio: Array, done: Array, clip: float | Array = math.inf) -> Array:
    """ρ₁ ⋯ ρₜ from the episode's first step to each step (Precup et al., 2000)."""
    return clipped_weight(log_cumulative_ratio(log_ratio, done), clip)


def first_order_weight(log_ratio: Array, clip: float | Array = math.inf) -> Array:
    """ρₜ of each step alone: a first-order approximation, with the state distribution of β."""
    return clipped_weight(log_ratio, clip)


def log_cumulative_ratio(log_ratio: Array, done: Array) -> Array:
    """log ρ₁ + ... + log ρₜ from the episode's first step to each step."""

    def forward(previous, step):
        log_ratio, done = step
        cumulative = previous + log_ratio
        return jnp.where(done, 0, cumulative), cumulative

    return jax.lax.scan(forward, jnp.zeros_like(log_ratio[0]), (log_ratio, done))[1]


def clipped_weight(log_weight: Array, clip: float | Array) -> Array:
    """min(exp(log_weight), clip)."""
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
    """Returns of π, Q^π(sₜ, aₜ) in expectation: each reward is weighted by the ratios after t.

        Gₜ = rₜ + γ ρₜ₊₁ Gₜ₊₁ inside an episode
        Gₜ = rₜ + γ (1 - terminatedₜ) V(sₜ₊₁) at its last step

    V is the value of π. `clip` applies to each ratio.
    """

    def backward(weighted_next_return, step):
        ratio, reward, next_value, terminated, done = step
        tail = jnp.where(done, ~terminated * next_value, weighted_next_return)
        return_ = reward + discount * tail
        return ratio * return_, return_

    steps = clipped_weight(log_ratio, clip), reward, next_value, terminated, done
    return jax.lax.scan(backward, next_value[-1], steps, reverse=True)[1]


def reward_to_go(
    log_ratio: Array,
    reward: Array,
    next_value: Array,
    terminated: Array,
    done: Array,
    discount: float | Array,
    correct_returns: bool = True,
    clip: float | Array = math.inf,
) -> Array:
    """Reward-to-go: the factor of ∇log π(aₜ | sₜ) in the off-policy policy gradient.

        (ρ₁ ⋯ ρₜ) Σₖ γᵏ⁻ᵗ (ρₜ₊₁ ⋯ ρₖ) rₖ,   k ≥ t

    The second product begins at t + 1, since the first already contains ρₜ. Without
    `correct_returns` the second product is 1. `clip` applies to the first product, and to each
    ratio of the second.
    """
    arguments = reward, next_value, terminated, done, discount
    returns = (
        per_decision_returns(log_ratio, *arguments, clip)
        if correct_returns
        else discounted_returns(*arguments)
    )
    return per_decision_weight(log_ratio, done, clip) * returns


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
    """V-trace: off-policy value targets and advantages (Espeholt et al., 2018, eq. 1).

        δₜ = rₜ + γ (1 - terminatedₜ) V(sₜ₊₁) - V(sₜ)
        vₜ = V(sₜ) + ρₜ δₜ + γ cₜ (1 - doneₜ) (vₜ₊₁ - V(sₜ₊₁))
        Aₜ = ρₜ (δₜ + γ λ (1 - doneₜ) (vₜ₊₁ - V(sₜ₊₁)))
        ρₜ = min(ρ̄, π / β),   cₜ = λ min(c̄, π / β)

    ρ̄ = `rho_clip` determines the policy whose value is the fixed point: π for infinite ρ̄. c̄ =
    `c_clip`, at most ρ̄, determines the speed of convergence only. λ = `lambda_`; the paper states A
    for λ = 1, where its bracket is rₜ + γ vₜ₊₁ - V(sₜ). On-policy and with clips of at least 1, v
    are the λ-returns and A the advantages of `returns.gae`.
    """
    td_error = reward + discount * ~terminated * next_value - value
    rho, c = clipped_weight(log_ratio, rho_clip), lambda_ * clipped_weight(log_ratio, c_clip)

    def backward(next_correction, step):  # the correction is vₜ - V(sₜ)
        td_error, rho, c, done = step
        next_correction = jnp.where(done, 0, next_correction)
        correction = rho * td_error + discount * c * next_correction
        advantage = rho * (td_error + discount * lambda_ * next_correction)
        return correction, (correction, advantage)

    steps, initial = (td_error, rho, c, done), jnp.zeros_like(td_error[0])
    correction, advantage = jax.lax.scan(backward, initial, steps, reverse=True)[1]
    return value + correction, advantage
