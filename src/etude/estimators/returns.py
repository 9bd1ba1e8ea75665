"""Returns and advantages: discounted, n-step and λ-returns, generalized advantage estimation.

Arrays are [time, ...], a segment of experience that may span several episodes. `next_value` is the
value of the true next state of each step, also at the end of an episode. After `terminated` the
value is zero; at `done` (terminated or truncated) and at the end of the segment sums stop and
bootstrap from `next_value`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from etude.types import Array


def discounted_returns(
    reward: Array, next_value: Array, terminated: Array, done: Array, discount: float | Array
) -> Array:
    """Discounted sums of rewards to the end of the episode or segment, bootstrapped if truncated.

    Gₜ = rₜ + γ Gₜ₊₁ inside an episode,   Gₜ = rₜ + γ (1 - terminatedₜ) V(sₜ₊₁) at its last step
    """

    def backward(next_return, step):
        reward, next_value, terminated, done = step
        return_ = reward + discount * jnp.where(done, ~terminated * next_value, next_return)
        return return_, return_

    return jax.lax.scan(
        backward, next_value[-1], (reward, next_value, terminated, done), reverse=True
    )[1]


def n_step_returns(
    reward: Array,
    next_value: Array,
    terminated: Array,
    done: Array,
    discount: float | Array,
    n: int,
) -> Array:
    """n-step returns: the sum of `n` rewards and a bootstrap (Sutton & Barto, 2018, eq. 7.1).

        Gₜ = rₜ + γ rₜ₊₁ + ... + γᵏ⁻¹ rₜ₊ₖ₋₁ + γᵏ (1 - terminatedₜ₊ₖ₋₁) V(sₜ₊ₖ)

    k is n, or less where the episode or segment ends first.
    """
    one_step = reward + discount * ~terminated * next_value  # k = 1
    returns = one_step
    for _ in range(n - 1):  # from k to k + 1
        next_return = jnp.concatenate([returns[1:], next_value[-1:]])
        is_last = done.at[-1].set(True)
        returns = jnp.where(is_last, one_step, reward + discount * next_return)
    return returns


def fold_n_steps(
    reward: Array, next_observation: Any, terminated: Array, done: Array, discount: float | Array
) -> tuple[Array, Any, Array, Array]:
    """Fold n steps [n, ...] into one: (reward, next observation, terminated, bootstrap discount).

        r₀ + γ r₁ + ... + γᵏ⁻¹ rₖ₋₁,   next_observationₖ₋₁,   terminatedₖ₋₁,   γᵏ

    k is n, or less where the episode ends first; later steps are ignored. `next_observation` is a
    tree with leaves [n, ...], observations or their indices. The first of `n_step_returns` equals
    reward + discount (1 - terminated) V(next observation) (Sutton & Barto, 2018, eq. 7.1).
    """
    n = len(reward)
    total, bootstrap_discount, last = (
        reward[-1],
        jnp.full_like(reward[-1], discount),
        jnp.full(reward.shape[1:], n - 1),
    )
    for i in reversed(range(n - 1)):
        total = reward[i] + discount * jnp.where(done[i], 0, total)
        bootstrap_discount = discount * jnp.where(done[i], 1, bootstrap_discount)
        last = jnp.where(done[i], i, last)

    def at_last(x):
        return jnp.take_along_axis(
            x, last.reshape(1, *last.shape, *(1,) * (x.ndim - last.ndim - 1)), 0
        )[0]

    return total, jax.tree.map(at_last, next_observation), at_last(terminated), bootstrap_discount


def gae(
    reward: Array,
    value: Array,
    next_value: Array,
    terminated: Array,
    done: Array,
    discount: float | Array,
    lambda_: float | Array,
) -> Array:
    """Generalized advantage estimation (Schulman et al., 2016, eq. 16).

        δₜ = rₜ + γ (1 - terminatedₜ) V(sₜ₊₁) - V(sₜ)
        Aₜ = δₜ + γ λ (1 - doneₜ) Aₜ₊₁

    λ = `lambda_`: 0 gives the TD error, 1 the Monte Carlo return minus the value.
    """
    td_error = reward + discount * ~terminated * next_value - value

    def backward(advantage, step):
        td_error, done = step
        advantage = td_error + discount * lambda_ * ~done * advantage
        return advantage, advantage

    return jax.lax.scan(backward, jnp.zeros_like(td_error[0]), (td_error, done), reverse=True)[1]


def running_returns(
    reward: Array, done: Array, discount: float | Array, initial: Array
) -> tuple[Array, Array]:
    """(discounted sums of the episode's rewards so far, the initial sum of the next segment).

        Rₜ = rₜ + γ (1 - doneₜ₋₁) Rₜ₋₁

    Reward normalization divides by the standard deviation of these (Engstrom et al., 2020).
    """

    def forward(carry, step):
        reward, done = step
        total = carry + reward
        return discount * ~done * total, total

    final, totals = jax.lax.scan(forward, initial, (reward, done))
    return totals, final


def lambda_returns(
    reward: Array,
    next_value: Array,
    terminated: Array,
    done: Array,
    discount: float | Array,
    lambda_: float | Array,
) -> Array:
    """λ-returns (Sutton & Barto, 2018, eq. 12.2, in the recursive form of exercise 12.1).

        Gₜ = rₜ + γ [(1 - λ) V(sₜ₊₁) + λ Gₜ₊₁] inside an episode
        Gₜ = rₜ + γ (1 - terminatedₜ) V(sₜ₊₁) at its last step, and at that of the segment

    λ = `lambda_`: 0 gives the one-step target, 1 the bootstrapped sum of rewards. With `next_value`
    = maxₐ Q(sₜ₊₁, a) it is the target of Peng's Q(λ), which does not cut the return at non-greedy
    actions (Peng & Williams, 1996).
    """
    one_step = reward + discount * ~terminated * next_value

    def backward(next_return, step):
        reward, next_value, one_step, done = step
        return_ = jnp.where(
            done, one_step, reward + discount * ((1 - lambda_) * next_value + lambda_ * next_return)
        )
        return return_, return_

    steps = reward, next_value, one_step, done
    return jax.lax.scan(backward, next_value[-1], steps, reverse=True)[1]
