"""Baselines exactly, over every set of samples: what they do to the mean of the policy gradient,
and to its variance."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from etude.errors import InvalidInput
from etude.estimators import baselines

# One choice among three: the softmax policy, what each choice returns, and the score of each,
# [action, logit]
POLICY, RETURNS = np.array([1, 2, 5]) / 8, np.array([3.0, -1.0, 2.0])
SCORE = np.eye(3) - POLICY
GRADIENT = (POLICY * RETURNS) @ SCORE
ALIKE = np.repeat(np.arange(3), [1, 2, 5])  # eight samples, each as likely as its probability says
LENGTHS = (SCORE**2).sum(-1)


def moments(estimates, probability):
    """The mean of estimates [case, parameter], and the trace of their covariance."""
    mean = probability @ estimates
    return mean, probability @ ((estimates - mean) ** 2).sum(-1)


def of_one(baseline):
    return moments((RETURNS - baseline)[:, None] * SCORE, POLICY)


def test_any_baseline_leaves_the_mean_and_the_optimal_one_the_least_variance():
    best = float(baselines.optimal_baseline(RETURNS[ALIKE], LENGTHS[ALIKE]))
    searched = scipy.optimize.minimize_scalar(lambda b: of_one(b)[1])
    np.testing.assert_allclose(best, searched.x, rtol=1e-5)
    average = float(baselines.mean_baseline(RETURNS[ALIKE]))
    np.testing.assert_allclose(average, POLICY @ RETURNS)
    for baseline in (0.0, best, average, 7.0):
        np.testing.assert_allclose(of_one(baseline)[0], GRADIENT, atol=1e-12)
    assert of_one(best)[1] < 0.95 * min(of_one(average)[1], of_one(0.0)[1])


def test_each_parameter_may_have_a_baseline_of_its_own():
    each = np.asarray(baselines.optimal_baseline(RETURNS[ALIKE][:, None], SCORE[ALIKE] ** 2))
    assert each.shape == (3,)
    for i, b in enumerate(each):
        variance = lambda b, i=i: moments(((RETURNS - b) * SCORE[:, i])[:, None], POLICY)[1]
        np.testing.assert_allclose(b, scipy.optimize.minimize_scalar(variance).x, rtol=1e-5)


# every three samples, [batch, sample]
BATCHES = np.array(list(itertools.product(range(3), repeat=3)))
LIKELY = POLICY[BATCHES].prod(-1)


def of_batches(baseline):
    """Mean and variance of the gradient's estimate from three samples, with `baseline` of (returns,
    squared scores)."""
    # [batch, sample or 1]
    subtracted = jax.vmap(baseline)(RETURNS[BATCHES], LENGTHS[BATCHES]).reshape(len(BATCHES), -1)
    advantage = RETURNS[BATCHES] - np.asarray(subtracted)
    return moments((advantage[..., None] * SCORE[BATCHES]).mean(1), LIKELY)


@pytest.fixture(scope="module")
def estimates():
    with jax.enable_x64(True):
        return {
            "none": of_batches(lambda r, g2: jnp.zeros(())),
            "average": of_batches(lambda r, g2: baselines.mean_baseline(r)),
            "optimal": of_batches(baselines.optimal_baseline),
            "average of others": of_batches(lambda r, g2: baselines.leave_one_out_mean(r)),
            "optimal of others": of_batches(baselines.leave_one_out_optimal),
        }


def test_the_average_of_the_same_samples_shrinks_the_gradient(estimates):
    np.testing.assert_allclose(estimates["average"][0], (1 - 1 / 3) * GRADIENT, rtol=1e-12)
    assert abs(estimates["optimal"][0] - GRADIENT).max() > 0.1 * abs(GRADIENT).max()


@pytest.mark.parametrize("name", ["none", "average of others", "optimal of others"])
def test_that_of_all_other_samples_does_not(estimates, name):
    np.testing.assert_allclose(estimates[name][0], GRADIENT, rtol=1e-12)


def test_each_sample_is_told_of_the_others_by_hand():
    r, g2 = np.array([[1.0, 0], [2, 0], [6, 3]]), np.array([[1.0, 1], [3, 0], [2, 0]])
    np.testing.assert_allclose(baselines.leave_one_out_mean(r), [[4, 1.5], [3.5, 1.5], [1.5, 0]])
    np.testing.assert_allclose(
        baselines.leave_one_out_optimal(r, g2), [[18 / 5, 0], [13 / 3, 0], [7 / 4, 0]], rtol=1e-6
    )
    np.testing.assert_allclose(baselines.optimal_baseline(r, g2), [19 / 6, 0], rtol=1e-6)
    # no score: nothing to subtract from
    np.testing.assert_array_equal(baselines.optimal_baseline(r, 0 * g2), [0, 0])


@pytest.mark.parametrize(
    "of_others", [baselines.leave_one_out_mean, lambda r: baselines.leave_one_out_optimal(r, r)]
)
def test_a_single_sample_has_no_others(of_others):
    with pytest.raises(InvalidInput, match="there are 1 samples; .* at least 2"):
        of_others(jnp.ones(1))


@pytest.fixture(scope="module")
def controlled():
    """The gradients [noise, action, logit] of a return that is `RETURNS` and a coin's ±1, with
    three control variates b(a)."""

    def surrogate(logits, action, noise, b):
        log_p = jax.nn.log_softmax(logits)
        return baselines.control_variate_objective(
            log_p[action], jnp.asarray(RETURNS)[action] + noise, b[action], jnp.exp(log_p) @ b
        )

    with jax.enable_x64(True):
        of_all = jax.vmap(
            jax.vmap(jax.grad(surrogate), (None, 0, None, None)), (None, None, 0, None)
        )
        gradients = jax.jit(jax.vmap(of_all, (None, None, None, 0)))
        return np.asarray(
            gradients(
                jnp.log(POLICY),
                jnp.arange(3),
                jnp.array([-1.0, 1.0]),
                jnp.array([[0, 0, 0], RETURNS, [1, 4, -2], np.full(3, RETURNS @ POLICY)]),
            )
        )


def test_a_baseline_of_the_action_is_unbiased_with_its_correction(controlled):
    p = np.tile(POLICY, 2) / 2
    none, exact, wrong, state = (moments(x.reshape(6, 3), p) for x in controlled)
    for mean, _ in (none, exact, wrong, state):
        np.testing.assert_allclose(mean, GRADIENT, rtol=1e-12)
    assert exact[1] < 0.8 * min(none[1], state[1])
    # only the coin's noise is left, of variance 1
    np.testing.assert_allclose(exact[1], POLICY @ LENGTHS, rtol=1e-12)
    np.testing.assert_allclose(
        controlled[3], (RETURNS - RETURNS @ POLICY + [[-1], [1]])[..., None] * SCORE, rtol=1e-12
    )
