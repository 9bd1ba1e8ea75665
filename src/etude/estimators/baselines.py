"""Baselines and control variates, which reduce the variance of the policy gradient.

    ∇J = E[∇log π (R - b)],   for any b that does not depend on the sample's own actions, since
                              E[∇log π] = 0

R is the return and ∇log π the score of a sample, which is an episode or a step. The first axis is
the sample axis. Each position on the other axes has its own baseline: for [sample, time], each time
step has one.

A baseline computed from all N samples depends on each sample's own actions. It biases the gradient
estimate by order 1/N: with the mean baseline its expectation is 1 - 1/N times the gradient. A
leave-one-out baseline, computed for each sample from the other, independent samples, leaves the
gradient unbiased.
"""

import jax
import jax.numpy as jnp

from etude.errors import InvalidInput
from etude.types import Array


def mean_baseline(returns: Array) -> Array:
    """Return the sample mean of R, [...], for returns [sample, ...]."""
    return returns.mean(0)


def optimal_baseline(returns: Array, squared_score: Array) -> Array:
    """Return b = E[g² R] / E[g²], [...], g² = ‖∇log π‖²: the baseline of minimal variance.

    It minimizes E[g² (R - b)²], the trace of the gradient's covariance up to an additive constant
    (Peters & Schaal, 2008). Expectations are sample means. `returns` and `squared_score`, the
    squared norm g² of each score, are [sample, ...]. To get one baseline per parameter, pass
    squared_score [sample, parameter], the squares of the score's elements, and returns [sample, 1].
    The baseline is zero where all scores are zero.
    """
    return safe_divide((squared_score * returns).sum(0), squared_score.sum(0))


def leave_one_out_mean(returns: Array) -> Array:
    """Return for each sample the mean of the others, [sample, ...] (RLOO; Kool et al., 2019).

    Raises InvalidInput for fewer than two samples.
    """
    require_two_samples(returns)
    return (returns.sum(0) - returns) / (len(returns) - 1)


def leave_one_out_optimal(returns: Array, squared_score: Array) -> Array:
    """Return for each sample the `optimal_baseline` of the others, [sample, ...].

    Raises InvalidInput for fewer than two samples.
    """
    require_two_samples(returns)
    weighted_returns = squared_score * returns
    return safe_divide(
        weighted_returns.sum(0) - weighted_returns, squared_score.sum(0) - squared_score
    )


def control_variate_objective(
    log_prob: Array, returns: Array, control_variate: Array, expected_control_variate: Array
) -> Array:
    """Return the objective with an action-dependent control variate b(s, a) (Gu et al., 2017).

        log π(a | s) (R - b(s, a)) + E[b(s, a')],   a' ~ π

    R - b is not differentiated. The gradient with respect to the policy's parameters is the policy
    gradient, to be ascended. It is unbiased for any b not fitted to these samples, and its variance
    is usually lower when b is closer to Q(s, a), the expected return of a in s (Q-Prop).

    All arguments have the same shape. `log_prob`, `returns` and `control_variate` belong to the
    action taken; `expected_control_variate` is the mean over the policy's actions, differentiable
    in the policy's parameters with b held constant. For b = V(s) its gradient is zero, and the
    objective is the ordinary one with baseline V.
    """
    return log_prob * jax.lax.stop_gradient(returns - control_variate) + expected_control_variate


def safe_divide(numerator: Array, denominator: Array) -> Array:
    """Return numerator / denominator, and zero where the denominator is not positive."""
    is_positive = denominator > 0
    return jnp.where(is_positive, numerator / jnp.where(is_positive, denominator, 1), 0)


def require_two_samples(returns: Array) -> None:
    """Raise InvalidInput for fewer than two samples."""
    if len(returns) < 2:
        raise InvalidInput(
            f"there are {len(returns)} samples; a leave-one-out baseline needs at least 2"
        )
