"""Baselines and control variates, which reduce the variance of the policy gradient.

    ∇J = E[∇log π (R - b)],   for any b that does not depend on the sample's own actions, since
                              E[∇log π] = 0

Samples, episodes or steps, are on the first axis; each index of the other axes, such as [sample,
time], has its own baseline. A baseline computed from the same samples depends on each of them,
which is a bias of order 1/N: the mean scales the gradient by 1 - 1/N. A baseline for each sample
from all other samples (leave one out) is unbiased.
"""

import jax
import jax.numpy as jnp

from etude.errors import InvalidInput
from etude.types import Array


def mean_baseline(returns: Array) -> Array:
    """E[R], [...], of returns [sample, ...]."""
    return returns.mean(0)


def optimal_baseline(returns: Array, squared_score: Array) -> Array:
    """b = E[g² R] / E[g²], [...], with g² = ‖∇log π‖²: the baseline of minimal variance.

    It minimizes E[g² (R - b)²], the trace of the gradient's covariance up to a constant (Peters &
    Schaal, 2008). `returns` and `squared_score` are [sample, ...]. With the squares of the score's
    elements, [sample, parameter], and returns [sample, 1], each parameter has its own baseline. It
    is zero where all scores are zero.
    """
    return safe_divide((squared_score * returns).sum(0), squared_score.sum(0))


def leave_one_out_mean(returns: Array) -> Array:
    """The mean return of all other samples, [sample, ...] (RLOO; Kool et al., 2019).

    Raises InvalidInput for a single sample.
    """
    require_two_samples(returns)
    return (returns.sum(0) - returns) / (len(returns) - 1)


def leave_one_out_optimal(returns: Array, squared_score: Array) -> Array:
    """The optimal baseline of all other samples, [sample, ...], as in `optimal_baseline`.

    Raises InvalidInput for a single sample.
    """
    require_two_samples(returns)
    weighted = squared_score * returns
    return safe_divide(weighted.sum(0) - weighted, squared_score.sum(0) - squared_score)


def control_variate_objective(
    log_prob: Array, returns: Array, control_variate: Array, expected_control_variate: Array
) -> Array:
    """The objective with an action-dependent control variate b(s, a) (Q-Prop; Gu et al., 2017).

        log π(a | s) (R - b(s, a)) + E[b(s, a')],   a' ~ π

    Its gradient with respect to the policy's parameters is unbiased for any b, and of lower
    variance the nearer b is to Q. All arguments are [...]: `log_prob`, `returns` and `baseline` of
    the action taken, `expected` over the policy's actions, a function of the policy with b
    constant. For b = V(s) the correction has no gradient.
    """
    return log_prob * jax.lax.stop_gradient(returns - control_variate) + expected_control_variate


def safe_divide(numerator: Array, denominator: Array) -> Array:
    """numerator / denominator, and zero where the denominator is zero."""
    is_positive = denominator > 0
    return jnp.where(is_positive, numerator / jnp.where(is_positive, denominator, 1), 0)


def require_two_samples(returns: Array) -> None:
    """Raise InvalidInput for a single sample."""
    if len(returns) < 2:
        raise InvalidInput(
            f"there are {len(returns)} samples; a baseline from all others takes at least 2"
        )
