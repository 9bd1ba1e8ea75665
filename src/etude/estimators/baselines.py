"""What to subtract from returns so that the policy gradient spreads less.

    ∇J = E[∇log π (R - b)],   for any b that does not depend on the sample's own actions, since
                              E[∇log π] = 0

Samples are episodes, or steps, and lie on the first axis; other axes, such as [sample, time], have
baselines of their own. A baseline of the very samples it is subtracted from depends on each of them
a little, a bias of order 1/N: the average shrinks the gradient by 1 - 1/N. The same of all other
samples, one baseline for each, leaves it unbiased.
"""

import jax
import jax.numpy as jnp

from etude.errors import InvalidInput
from etude.types import Array


def mean_baseline(returns: Array) -> Array:
    """E[R], of returns [sample, ...], [...]."""
    return returns.mean(0)


def optimal_baseline(returns: Array, squared_score: Array) -> Array:
    """b = E[g² R] / E[g²], g² = ‖∇log π‖²: the baseline of least variance, [...] (Peters & Schaal,
    2008).

    It minimizes E[g² (R - b)²], the trace of the covariance up to what no b changes. `returns` and
    `squared_score` are [sample, ...]; with the squares of the score's elements, [sample,
    parameter], and returns [sample, 1] each parameter has a baseline of its own. It is zero where
    no score has any length.
    """
    return safe_divide((squared_score * returns).sum(0), squared_score.sum(0))


def leave_one_out_mean(returns: Array) -> Array:
    """For each sample the average return of all others, [sample, ...] (Kool et al., 2019).

    Raises InvalidInput for a single sample.
    """
    require_two(returns)
    return (returns.sum(0) - returns) / (len(returns) - 1)


def leave_one_out_optimal(returns: Array, squared_score: Array) -> Array:
    """For each sample the optimal baseline by all others, [sample, ...]; shapes are those of
    `optimal`.

    Raises InvalidInput for a single sample.
    """
    require_two(returns)
    weighted = squared_score * returns
    return safe_divide(weighted.sum(0) - weighted, squared_score.sum(0) - squared_score)


def control_variate_objective(
    log_prob: Array, returns: Array, baseline: Array, expected: Array
) -> Array:
    """A control variate b(s, a) with its correction, to be differentiated by the policy's
    parameters (Gu et al., 2017).

        log π(a | s) (R - b(s, a)) + E[b(s, a')],   a' ~ π

    All are [...]: `log_prob`, `returns` and `baseline` of the action taken, `expected` of all
    actions, a function of the policy while b is held fixed. The gradient is unbiased whatever b,
    and spreads the less the nearer b is to Q; b = V(s) is the baseline of the state, whose
    correction has no gradient.
    """
    return log_prob * jax.lax.stop_gradient(returns - baseline) + expected


def safe_divide(numerator: Array, denominator: Array) -> Array:
    """Zero where the denominator is."""
    there = denominator > 0
    return jnp.where(there, numerator / jnp.where(there, denominator, 1), 0)


def require_two(returns: Array) -> None:
    if len(returns) < 2:
        raise InvalidInput(
            f"there are {len(returns)} samples; a baseline from all others takes at least 2"
        )
