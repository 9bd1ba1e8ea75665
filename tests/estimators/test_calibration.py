"""Measures of predictions against scoringrules, against intervals and integrals in SciPy, and
against what is known of a normal exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import scoringrules

from etude.errors import InvalidInput
from etude.estimators import calibration

MEMBERS, ROWS, DIMS = 4, 30, 3
LEVELS = np.float32([0.1, 0.5, 0.9, 0.95])
close = dict(rtol=2e-5, atol=2e-6)


@jax.jit
def measure(target, means, variances):
    """All measures of one shape in one program; the first member stands for a Gaussian."""
    gaussian = target, means[0], variances[0]
    mixture = target, means, variances
    return dict(
        moments=calibration.mixture_moments(means, variances),
        gaussian_nll=calibration.gaussian_nll(*gaussian),
        mixture_nll=calibration.mixture_nll(*mixture),
        mixture_nll_of_each=jnp.stack(
            [
                calibration.mixture_nll(target[:, [i]], means[..., [i]], variances[..., [i]])
                for i in range(target.shape[1])
            ]
        ),
        gaussian_crps=calibration.gaussian_crps(*gaussian),
        mixture_crps=calibration.mixture_crps(*mixture),
        gaussian_pit=(pit := calibration.gaussian_pit(*gaussian)),
        mixture_pit=(mixture_pit := calibration.mixture_pit(*mixture)),
        gaussian_coverage=jax.lax.map(lambda level: calibration.coverage(pit, level), LEVELS),
        mixture_coverage=jax.lax.map(
            lambda level: calibration.coverage(mixture_pit, level), LEVELS
        ),
        gaussian_error=calibration.calibration_error(pit, LEVELS),
        mixture_error=calibration.calibration_error(mixture_pit, LEVELS),
        default_error=calibration.calibration_error(pit),
        sharpness=calibration.sharpness(variances[0]),
    )


@pytest.fixture(scope="module")
def case():
    """Members that disagree by more than their σ, and targets not of their distribution."""
    rng = np.random.default_rng(0)
    target = rng.normal(0.5, 2, (ROWS, DIMS)).astype(np.float32)
    means = rng.normal(0, 1.5, (MEMBERS, ROWS, DIMS)).astype(np.float32)
    variances = np.exp(rng.normal(0, 1, means.shape)).astype(np.float32)
    found = jax.device_get(measure(target, means, variances))
    return found, *(x.astype(float) for x in (target, means, np.sqrt(variances)))


def test_scores_are_those_of_scoringrules(case):
    found, target, means, std = case
    np.testing.assert_allclose(
        found["gaussian_nll"], scoringrules.logs_normal(target, means[0], std[0]).sum(-1), **close
    )
    np.testing.assert_allclose(
        found["gaussian_crps"], scoringrules.crps_normal(target, means[0], std[0]), **close
    )
    np.testing.assert_allclose(
        found["mixture_crps"], scoringrules.crps_mixnorm(target, means, std, m_axis=0), **close
    )
    of_each = scoringrules.logs_mixnorm(target, means, std, mc_axis=0)
    np.testing.assert_allclose(found["mixture_nll_of_each"], of_each.T, **close)


def test_a_member_of_a_mixture_predicts_all_dimensions_together(case):
    """p(y) is the mean of the members' densities of the whole row."""
    found, target, means, std = case
    for row in range(ROWS):
        density = np.mean(
            [
                scipy.stats.multivariate_normal(mean[row], np.diag(s[row] ** 2)).pdf(target[row])
                for mean, s in zip(means, std, strict=True)
            ]
        )
        np.testing.assert_allclose(found["mixture_nll"][row], -np.log(density), rtol=1e-4)


def test_crps_is_the_integral_of_its_definition(case):
    found, target, means, std = case
    for row, dim in [(0, 0), (7, 2)]:
        y = target[row, dim]
        cdf = lambda x, at=(slice(None), row, dim): scipy.stats.norm.cdf(x, means[at], std[at])
        integral = sum(
            scipy.integrate.quad(lambda x, cdf=cdf, step=step: (cdf(x).mean() - step) ** 2, *ends)[
                0
            ]
            for step, ends in [(0, (-40, y)), (1, (y, 40))]
        )
        np.testing.assert_allclose(found["mixture_crps"][row, dim], integral, rtol=1e-4)


def quantile(probability, mean, std):
    """[row, dim] of equally weighted mixtures [member, row, dim], by bisection."""
    low, high = np.full((2, *mean.shape[1:]), [[[-60.0]], [[60.0]]])
    for _ in range(60):
        middle = (low + high) / 2
        is_below = scipy.special.ndtr((middle - mean) / std).mean(0) < probability
        low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
    return low


@pytest.mark.parametrize("kind, members", [("gaussian", 1), ("mixture", MEMBERS)])
def test_coverage_and_its_error_are_those_of_intervals_between_quantiles(case, kind, members):
    found, target, means, std = case
    means, std = means[:members], std[:members]
    ends = [(quantile((1 - p) / 2, means, std), quantile((1 + p) / 2, means, std)) for p in LEVELS]
    expected = np.array([((low <= target) & (target <= high)).mean(0) for low, high in ends])
    assert (expected > 0).all() and (expected < 1).all()
    np.testing.assert_allclose(found[f"{kind}_coverage"], expected, rtol=1e-6)
    error = np.abs(expected - LEVELS[:, None]).mean(0)
    np.testing.assert_allclose(found[f"{kind}_error"], error, rtol=1e-5)
    pit = scipy.special.ndtr((target - means) / std).mean(0)
    np.testing.assert_allclose(found[f"{kind}_pit"], pit, **close)


def test_moments_are_those_of_samples_of_the_mixture(case):
    """The law of total variance: the two parts together are the variance of what is drawn."""
    found, _, means, std = case
    rng = np.random.default_rng(1)
    member = rng.integers(MEMBERS, size=1_000_000)
    sampled = means[member, 0, 0] + std[member, 0, 0] * rng.normal(size=member.size)
    mean, aleatoric, epistemic = (x[0, 0] for x in found["moments"])
    np.testing.assert_allclose(mean, sampled.mean(), atol=0.01)
    np.testing.assert_allclose(aleatoric + epistemic, sampled.var(), rtol=0.01)
    np.testing.assert_allclose(aleatoric, (std[:, 0, 0] ** 2).mean(), rtol=1e-5)
    assert aleatoric > 0.1 and epistemic > 0.1


def test_a_calibrated_normal_has_the_values_that_are_known():
    """100,000 quantiles of N(1, 3²), as if N(1, (3 c)²) were predicted: calibrated for c = 1."""
    factors, scale, rows = np.array([1, 2, 0.5]), 3.0, 100_000
    target = 1 + scale * scipy.stats.norm.ppf((np.arange(rows) + 0.5) / rows)
    target = np.repeat(target.astype(np.float32)[:, None], 3, 1)  # [row, factor]

    @jax.jit
    def measure_normal(target, variance):
        prediction = jnp.ones_like(target), jnp.broadcast_to(variance, target.shape)
        pit = calibration.gaussian_pit(target, *prediction)
        return (
            calibration.gaussian_nll(*(x[:, :1] for x in (target, *prediction))).mean(),
            calibration.gaussian_crps(target, *prediction).mean(0),
            calibration.coverage(pit, 0.9),
            calibration.calibration_error(pit),
        )

    variance = np.float32((factors * scale) ** 2)
    nll, crps, covered, error = jax.device_get(measure_normal(target, variance))
    np.testing.assert_allclose(nll, 1.4189 + np.log(scale), atol=1e-3)
    np.testing.assert_allclose(crps[0], 0.5642 * scale, rtol=1e-3)
    assert crps[1:].min() > 1.05 * crps[0]
    np.testing.assert_allclose(covered[:2], [0.9, 0.9990], atol=2e-4)
    # the level less its coverage, exactly: P(|z| <= c q) for the quantile q of the level
    levels = np.arange(1, 100) / 100
    q = scipy.stats.norm.ppf((1 + levels) / 2)
    reached = 2 * scipy.stats.norm.cdf(factors[:, None] * q) - 1
    np.testing.assert_allclose(error, np.abs(reached - levels).mean(-1), atol=1e-3)
    assert error[0] < 1e-3


def test_default_levels_are_the_percents(case):
    found, target, means, std = case
    inside = np.abs(2 * scipy.stats.norm.cdf(target, means[0], std[0]) - 1)
    levels = np.arange(1, 100) / 100
    expected = np.mean([np.abs((inside <= level).mean(0) - level) for level in levels], 0)
    np.testing.assert_allclose(found["default_error"], expected, rtol=1e-4)
    np.testing.assert_allclose(found["sharpness"], np.sqrt((std[0] ** 2).mean(0)), rtol=1e-5)


def test_without_spread_a_prediction_is_a_point():
    """The CRPS is the absolute error, and no interval but that of all covers a miss."""
    target, mean = np.zeros((2, ROWS, DIMS), np.float32)
    target[:3, 0], mean[:3, 0] = [1, -2, 0.5], [1, 1, 0]
    means = np.stack([mean, mean + 2, mean, mean + 2])  # two points, each with half the probability
    found = jax.device_get(measure(target, means, np.zeros_like(means)))
    np.testing.assert_allclose(found["gaussian_crps"], abs(target - mean))
    np.testing.assert_array_equal(found["gaussian_pit"][:3, 0], [0.5, 0, 1])
    np.testing.assert_allclose(found["gaussian_coverage"][:, 0], 1 - 2 / ROWS, rtol=1e-6)
    # E|X - y| - ½ E|X - X'|
    expected = (abs(target - mean) + abs(target - mean - 2)) / 2 - 0.5
    np.testing.assert_allclose(found["mixture_crps"], expected, rtol=1e-6)


def test_likelihoods_and_scores_far_away_stay_numbers():
    """exp of the log density of 1,000 σ is no float32, of any member."""
    target = np.zeros((ROWS, DIMS), np.float32)
    means = np.zeros((MEMBERS, ROWS, DIMS), np.float32)
    means[..., 0] = np.float32([1000, 1010, 1020, 1030])[:, None]
    found = jax.device_get(measure(target, means, np.ones_like(means)))
    nearest = (1000**2 + DIMS * np.log(2 * np.pi)) / 2
    np.testing.assert_allclose(found["mixture_nll"], nearest + np.log(MEMBERS), rtol=1e-6)
    # E|X - y| = 1015, and E|X - X'| = (6·10 + 4·20 + 2·30 + 4·2/√π) / 16
    between = (6 * 10 + 4 * 20 + 2 * 30 + 4 * 2 / np.sqrt(np.pi)) / 16
    np.testing.assert_allclose(found["mixture_crps"][:, 0], 1015 - between / 2, rtol=1e-5)


def test_a_prediction_that_is_no_number_covers_nothing(case):
    _, target, means, std = (np.float32(x) for x in (0, *case[1:]))
    means[0, 0, 0] = np.nan
    found = jax.device_get(measure(target, means, std**2))
    for kind, members in ("gaussian", 1), ("mixture", MEMBERS):
        rest = scipy.special.ndtr((target - means[:members]) / std[:members]).mean(0)[1:, 0]
        covered = (np.abs(2 * rest - 1) <= LEVELS[:, None]).sum(-1)
        np.testing.assert_allclose(found[f"{kind}_coverage"][:, 0], covered / ROWS, rtol=1e-6)


y, mu = np.zeros((5, 1), np.float32), np.ones((5, 1), np.float32)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: calibration.gaussian_nll(y[:, 0], mu, mu), r"target \(5,\), mean \(5, 1\)"),
        (lambda: calibration.gaussian_crps(y, mu, mu[:3]), r"variance \(3, 1\); make them equal"),
        (lambda: calibration.gaussian_pit(y, mu[:1], mu), r"mean \(1, 1\)"),
        (lambda: calibration.mixture_moments(mu, mu[:1]), "the shapes differ"),
        (lambda: calibration.mixture_nll(y, mu, mu), r"\(5, 1\) for targets of shape \(5, 1\)"),
        (lambda: calibration.mixture_pit(y, mu[None, :3], mu[None, :3]), r"\[member, row, dim\]"),
        (lambda: calibration.mixture_crps(y, mu[None][:0], mu[None][:0]), "at least one member"),
        (lambda: calibration.mixture_nll(y, mu[None], mu), "the shapes differ"),
        (lambda: calibration.coverage(y[:0], 0.9), "0 rows"),
        (lambda: calibration.sharpness(y[:0]), "0 rows"),
        (lambda: calibration.coverage(y, 90), "the level is 90; .* as 0.9 for 90 %"),
        (lambda: calibration.calibration_error(y, np.array([0.5, np.nan])), "must be from 0 to 1"),
        (lambda: calibration.calibration_error(y, np.array([])), "0 levels"),
    ],
)
def test_what_does_not_fit_together_is_refused(call, message):
    with pytest.raises(InvalidInput, match=message):
        call()
