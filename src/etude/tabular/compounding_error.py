"""Compounding errors of behavior cloning: exact costs, and bounds for every decision process.

A deterministic expert takes the action π*(s). A policy errs where it takes another one. Trained on
the expert's states, it errs in each of them with probability ε, the error rate, or less; nothing is
known of its actions elsewhere. So ε is the largest error probability over the expert's states. A
mean over these states, as a validation error is, does not do here: all errors may fall on the first
step, and then only the bound ε T² of Ross & Bagnell holds. A horizon is a number T of steps, and
p(sₜ) is the distribution of the state after t of them. Costs are in [0, 1] a step.

Sources: Ross & Bagnell, "Efficient Reductions for Imitation Learning" (2010); Ross, Gordon &
Bagnell, "A Reduction of Imitation Learning and Structured Prediction to No-Regret Online Learning"
(2011).
"""

import jax.numpy as jnp
from jax.scipy.special import xlog1py

from etude.types import Array


def mistake_probability(error_rate: float | Array, time: int | Array) -> Array:
    """Return the probability of at least one error in t steps, each in a state of the expert.

        1 - (1 - ε)ᵗ ≤ ε t

    Args:
        error_rate: ε, the probability of an error in each step, [...].
        time: t, the number of steps, [...]; it broadcasts with the error rate.

    Returns:
        The probability, [...].
    """
    return -jnp.expm1(xlog1py(time, -jnp.asarray(error_rate, float)))


def distribution_shift_bound(error_rate: float | Array, time: int | Array) -> Array:
    """Return a bound on the L1 distance, 0 to 2, of the policy's states from the expert's.

        p_θ(sₜ) = (1 - ε)ᵗ p*(sₜ) + (1 - (1 - ε)ᵗ) p_mistake(sₜ)

        Σₛ |p_θ(sₜ = s) - p*(sₜ = s)| ≤ 2 (1 - (1 - ε)ᵗ) ≤ 2 ε t

    Here p_θ(sₜ) and p*(sₜ) are the distributions of the states of the policy and of the expert
    after t steps, and p_mistake(sₜ) is whatever distribution the policy's states have after a first
    error. The bound is reached where no state after an error is one of the expert's, as on a
    tightrope.

    Args:
        error_rate: ε, the probability of an error in each state of the expert, [...].
        time: t, the number of steps since the initial state, [...].

    Returns:
        The first of the two bounds, between 0 and 2, [...].

    Source: Ross & Bagnell (2010), the proof of theorem 2.1.
    """
    return 2 * mistake_probability(error_rate, time)


def cloning_cost(error_rate: float | Array, horizon: int) -> Array:
    """Return the expected cost of a policy that pays 1 in the step of its first error and later.

        Σ_{t=1..T} (1 - (1 - ε)ᵗ) ≤ ε T (T + 1) / 2

    This is what behavior cloning costs on a tightrope, off which demonstrations say nothing. In
    every decision process with costs in [0, 1] it bounds the excess over the expert's cost, for
    until the first error the two do the same.

    Args:
        error_rate: ε, the probability of an error in each state of the expert, [...].
        horizon: T, in steps.

    Returns:
        The cost of T steps, [...]; it grows with T² while ε T is small.

    Source: Ross & Bagnell (2010), theorem 2.1, which has ε T².
    """
    steps = jnp.arange(1, horizon + 1)
    return mistake_probability(jnp.asarray(error_rate)[..., None], steps).sum(-1)


def cloning_cost_bound(error_rate: float | Array, horizon: int | Array) -> Array:
    """Return the lecture's bound on the expected number of errors of a cloned policy.

        Σ_{t=1..T} E_θ[cₜ] ≤ Σ_{t=1..T} (ε + 2 ε t) ≤ ε T + 2 ε T²,    cₜ = 1(aₜ ≠ π*(sₜ))

    On the expert's states a step costs ε, and `distribution_shift_bound` says how much of another
    distribution the policy's states have. `cloning_cost` bounds the same number, about four times
    closer; this bound is the one that the lecture derives.

    Args:
        error_rate: ε, the probability of an error in each state of the expert, [...].
        horizon: T, in steps, [...].

    Returns:
        ε T + 2 ε T², [...].

    Source: Ross & Bagnell (2010), with the constants of the lecture on imitation.
    """
    return jnp.asarray(error_rate) * horizon * (1 + 2 * jnp.asarray(horizon))


def dagger_cost(error_rate: float | Array, horizon: int | Array) -> Array:
    """Return the expected cost of a policy that errs with probability ε in its own states too.

        Σ_{t=1..T} ε = ε T

    DAgger asks the expert for its actions in the states that the policy comes to. Where the action
    of the expert undoes an error at once, an error costs one step, and not the rest of the horizon.

    Args:
        error_rate: ε, the probability of an error in every state, [...].
        horizon: T, in steps, [...].

    Returns:
        The cost of T steps, [...], which is linear in T.

    Source: Ross, Gordon & Bagnell (2011), theorem 2.2, J(π) ≤ J(π*) + u T ε, where u is the most
    that one error adds to the cost if the expert acts afterwards. Here u = 1 and the expert costs
    nothing, so it is an equality.
    """
    return jnp.asarray(error_rate) * horizon
