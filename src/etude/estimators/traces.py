"""Returns of every length at once, weighted by a trace that fades.

Arrays are [time, ...], with `terminated`, `done` and `next_value` as in `returns`.
"""
import jax
import jax.numpy as jnp

Array = jax.Array


def lambda_returns(reward: Array, next_value: Array, terminated: Array, done: Array, discount: float | Array,
                   decay: float | Array) -> Array:
    """The λ-return (Sutton & Barto, 2018, eq. 12.2, in the recursive form of exercise 12.1), λ = `decay`.

        Gₜ = rₜ + γ [(1 - λ) V(sₜ₊₁) + λ Gₜ₊₁] inside an episode
        Gₜ = rₜ + γ (1 - terminatedₜ) V(sₜ₊₁) at its last step, and at that of the stretch

    λ = 0 is the one-step target, λ = 1 the bootstrapped sum of rewards. With `next_value` = maxₐ Q(sₜ₊₁, a) it is that of
    Peng's Q(λ), which does not stop at actions that were not greedy (Peng & Williams, 1996).
    """
    one = reward + discount * ~terminated * next_value

    def backward(later, step):
        reward, next_value, one, done = step
        later = jnp.where(done, one, reward + discount * ((1 - decay) * next_value + decay * later))
        return later, later
    return jax.lax.scan(backward, next_value[-1], (reward, next_value, one, done), reverse=True)[1]
