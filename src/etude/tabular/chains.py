"""Markov chains: where a state goes when nobody chooses.

A chain is a matrix [state, next state] of probabilities, each row with sum one; a distribution is a
row, [state].
"""

import jax.numpy as jnp

from etude.types import Array


def propagate(transition: Array, distribution: Array, steps: int = 1) -> Array:
    """The distribution after `steps` steps, [state]: μₜ₊₁ = μₜ T."""
    return distribution @ jnp.linalg.matrix_power(transition, steps)


def stationary(transition: Array) -> Array:
    """The distribution that a step leaves as it is, μ = μ T, [state].

    It is the only one where some state can be reached from every state; where there are several, as
    with two absorbing states, the one of least norm is given. A chain that goes round has one too,
    and never settles into it.
    """
    n = len(transition)
    # the last: probabilities sum to one
    equations = jnp.concatenate([transition.T - jnp.eye(n), jnp.ones((1, n))])
    solution = jnp.linalg.lstsq(equations, jnp.zeros(n + 1).at[-1].set(1.0))[0]
    return jnp.maximum(solution, 0)  # rounding may pass below


def absorbing(transition: Array) -> Array:
    """Which states are never left, [state] of bool."""
    return jnp.where(jnp.eye(len(transition), dtype=bool), 0, transition).sum(-1) == 0


def absorption(transition: Array) -> tuple[Array, Array]:
    """Where the chain ends, and after how long: probabilities [state, state] and expected steps
    [state].

    Column j is the probability of ending in the absorbing state j, zero where j is none. An
    absorbing state must be within reach of every state, or the linear systems have no solution
    (Kemeny & Snell, 1960, chapter 3).
    """
    end, same = absorbing(transition), jnp.eye(len(transition))
    passing = jnp.where(end[:, None] | end, 0, transition)  # among transient states alone
    fundamental = same - passing  # its inverse counts the visits
    into = jnp.where(end[:, None], same, jnp.where(end, transition, 0))
    return jnp.linalg.solve(fundamental, into), jnp.linalg.solve(
        fundamental, jnp.where(end, 0.0, 1.0)
    )
