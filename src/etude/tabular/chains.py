"""Markov chains: propagation, stationary distributions and absorption.

A chain is a matrix of transition probabilities [state, next state] whose rows sum to one; a
distribution is a row vector [state].
"""

import jax.numpy as jnp

from etude.types import Array


def propagate(transition: Array, distribution: Array, steps: int = 1) -> Array:
    """Return the distribution after `steps` steps, [state]: μₜ₊₁ = μₜ T."""
    return distribution @ jnp.linalg.matrix_power(transition, steps)


def stationary(transition: Array) -> Array:
    """Return the stationary distribution μ = μ T, [state].

    It is unique where some state can be reached from every state. Of several, as with two absorbing
    states, the result is the one of least norm. A periodic chain has one too, but does not converge
    to it.
    """
    n = len(transition)
    # the last equation is that probabilities sum to one
    equations = jnp.concatenate([transition.T - jnp.eye(n), jnp.ones((1, n))])
    solution = jnp.linalg.lstsq(equations, jnp.zeros(n + 1).at[-1].set(1.0))[0]
    return jnp.maximum(solution, 0)  # rounding may make it negative


def absorbing(transition: Array) -> Array:
    """Return the mask of absorbing states, bool [state]."""
    return jnp.where(jnp.eye(len(transition), dtype=bool), 0, transition).sum(-1) == 0


def absorption(transition: Array) -> tuple[Array, Array]:
    """Return absorption probabilities [state, state] and expected steps to absorption [state].

    Column j is the probability of absorption in state j, zero where j is not absorbing. An
    absorbing state must be reachable from every state, or the linear systems have no solution
    (Kemeny & Snell, 1960, chapter 3).
    """
    is_absorbing, identity = absorbing(transition), jnp.eye(len(transition))
    # between transient states only
    transient = jnp.where(is_absorbing[:, None] | is_absorbing, 0, transition)
    inverse_fundamental = identity - transient  # its inverse is the expected number of visits
    into_absorbing = jnp.where(
        is_absorbing[:, None], identity, jnp.where(is_absorbing, transition, 0)
    )
    return jnp.linalg.solve(inverse_fundamental, into_absorbing), jnp.linalg.solve(
        inverse_fundamental, jnp.where(is_absorbing, 0.0, 1.0)
    )
