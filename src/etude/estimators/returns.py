"""Returns and advantages of a stretch of experience.

Arrays are [time, ...]. `terminated` stops value; `done` (terminated or truncated) stops sums.
`next_value` is the value of the true successor, so a stretch may hold the ends of many episodes,
and its own last step bootstraps.
"""

from typing import Any

import jax
import jax.numpy as jnp

from etude.types import Array


def discounted_returns(
    reward: Array, next_value: Array, terminated: Array, done: Array, discount: float | Array
) -> Array:
    """Discounted sums of reward to the end of the episode, or of the stretch, bootstrapped where it
    was cut off.

        Gₜ = rₜ + γ Gₜ₊₁ inside an episode,   Gₜ = rₜ + γ (1 - terminatedₜ) V(sₜ₊₁) at its last step
    """

    def backward(later, step):
        reward, next_value, terminated, done = step
        later = reward + discount * jnp.where(done, ~terminated * next_value, later)
        return later, later

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
    """Sums of at most `n` rewards, then the value of the state reached (Sutton & Barto, 2018, eq.
    7.1).

        Gₜ = rₜ + γ rₜ₊₁ + ... + γᵏ⁻¹ rₜ₊ₖ₋₁ + γᵏ (1 - terminatedₜ₊ₖ₋₁) V(sₜ₊ₖ)

    k is n, or fewer where the episode or the stretch ends first.
    """
    one = reward + discount * ~terminated * next_value  # k = 1
    returns = one
    for _ in range(n - 1):  # from k to k + 1
        later = jnp.concatenate([returns[1:], next_value[-1:]])
        last = done.at[-1].set(True)
        returns = jnp.where(last, one, reward + discount * later)
    return returns


def fold_n_steps(
    reward: Array, after: Any, terminated: Array, done: Array, discount: float | Array
) -> tuple[Array, Any, Array, Array]:
    """A stretch [n, ...] folded into one step (Sutton & Barto, 2018, eq. 7.1): its reward, after,
    terminated and discount.

        r₀ + γ r₁ + ... + γᵏ⁻¹ rₖ₋₁,   afterₖ₋₁,   terminatedₖ₋₁,   γᵏ

    k is n, or fewer where the episode ends first; what comes after that is of no account. `after`
    is a tree with leaves [n, ...], the next observations or where to find them. That reward +
    discount (1 - terminated) V(after) is the first of `n_step_returns`.
    """
    n = len(reward)
    total, power, last = (
        reward[-1],
        jnp.full_like(reward[-1], discount),
        jnp.full(reward.shape[1:], n - 1),
    )
    for i in reversed(range(n - 1)):
        total = reward[i] + discount * jnp.where(done[i], 0, total)
        power = discount * jnp.where(done[i], 1, power)
        last = jnp.where(done[i], i, last)

    def reached(x):
        return jnp.take_along_axis(
            x, last.reshape(1, *last.shape, *(1,) * (x.ndim - last.ndim - 1)), 0
        )[0]

    return total, jax.tree.map(reached, after), reached(terminated), power


def gae(
    reward: Array,
    value: Array,
    next_value: Array,
    terminated: Array,
    done: Array,
    discount: float | Array,
    lambda_: float | Array,
) -> Array:
    """Generalized advantage estimates (Schulman et al., 2016, eq. 16).

        δₜ = rₜ + γ (1 - terminatedₜ) V(sₜ₊₁) - V(sₜ)
        Aₜ = δₜ + γ λ (1 - doneₜ) Aₜ₊₁

    λ = `lambda_`: 0 trusts the value function, 1 the sampled return.
    """
    error = reward + discount * ~terminated * next_value - value

    def backward(advantage, step):
        error, done = step
        advantage = error + discount * lambda_ * ~done * advantage
        return advantage, advantage

    return jax.lax.scan(backward, jnp.zeros_like(error[0]), (error, done), reverse=True)[1]


def running_returns(
    reward: Array, done: Array, discount: float | Array, start: Array
) -> tuple[Array, Array]:
    """Discounted sums of the rewards so far in the episode, and the sum to carry into the next
    stretch.

        Rₜ = rₜ + γ (1 - doneₜ₋₁) Rₜ₋₁

    The spread of these is what reward normalization divides by (Engstrom et al., 2020).
    """

    def forward(carry, step):
        reward, done = step
        total = carry + reward
        return discount * ~done * total, total

    end, totals = jax.lax.scan(forward, start, (reward, done))
    return totals, end


def lambda_returns(
    reward: Array,
    next_value: Array,
    terminated: Array,
    done: Array,
    discount: float | Array,
    lambda_: float | Array,
) -> Array:
    """The λ-return (Sutton & Barto, 2018, eq. 12.2, in the recursive form of exercise 12.1), λ =
    `lambda_`.

        Gₜ = rₜ + γ [(1 - λ) V(sₜ₊₁) + λ Gₜ₊₁] inside an episode
        Gₜ = rₜ + γ (1 - terminatedₜ) V(sₜ₊₁) at its last step, and at that of the stretch

    λ = 0 is the one-step target, λ = 1 the bootstrapped sum of rewards. With `next_value` = maxₐ
    Q(sₜ₊₁, a) it is that of Peng's Q(λ), which does not stop at actions that were not greedy (Peng
    & Williams, 1996).
    """
    one = reward + discount * ~terminated * next_value

    def backward(later, step):
        reward, next_value, one, done = step
        later = jnp.where(
            done, one, reward + discount * ((1 - lambda_) * next_value + lambda_ * later)
        )
        return later, later

    return jax.lax.scan(backward, next_value[-1], (reward, next_value, one, done), reverse=True)[1]
