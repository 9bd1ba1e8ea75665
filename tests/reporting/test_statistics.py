"""The interquartile mean and its bootstrap interval, against the definition written out."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import InvalidInput
from etude.reporting import statistics
from etude.reporting.statistics import three_digits
from etude.storage import files

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


def slow_iqm(values):
    values = sorted(values)
    cut = len(values) // 4
    kept = values[cut : len(values) - cut]
    return math.fsum(kept) / len(kept)


def exact_quantile(values, statistic, probability):
    """Of the statistic over every possible resample."""
    drawn = [statistic(sample) for sample in itertools.product(values, repeat=len(values))]
    return np.quantile(drawn, probability, method="inverted_cdf")


@given(VALUES)
def test_iqm_is_the_mean_of_the_middle_half(values):
    assert statistics.iqm(values) == pytest.approx(slow_iqm(values), rel=1e-9, abs=1e-6)


def test_iqm_by_hand():
    assert statistics.iqm([100, 1, 2, -50]) == 1.5
    assert statistics.iqm([3, 1]) == 2
    assert statistics.iqm(np.arange(8).reshape(2, 4)) == 3.5
    assert math.isnan(statistics.iqm([1, 2, 3, 4, math.nan]))  # not trimmed out of sight
    with pytest.raises(InvalidInput, match="no values"):
        statistics.iqm([])


@pytest.mark.parametrize("count", [2, 3, 5, 6])
def test_interval_over_seeds_against_every_resample(count):
    rng = np.random.default_rng(count)
    returns = rng.normal(100, 20, (count, 7))
    low, high = statistics.bootstrap_interval(returns)
    scores = returns.mean(1)
    assert (
        exact_quantile(scores, slow_iqm, 0.018) - 1e-9
        <= low
        <= exact_quantile(scores, slow_iqm, 0.032) + 1e-9
    )
    assert (
        exact_quantile(scores, slow_iqm, 0.968) - 1e-9
        <= high
        <= exact_quantile(scores, slow_iqm, 0.982) + 1e-9
    )


@pytest.mark.slow
def test_interval_of_one_seed_is_over_its_episodes():
    episodes = [10.0, 12.0, 9.0, 30.0, 11.0, 14.0]
    low, high = statistics.bootstrap_interval([episodes])
    assert exact_quantile(episodes, np.mean, 0.02) <= low <= exact_quantile(episodes, np.mean, 0.03)
    assert (
        exact_quantile(episodes, np.mean, 0.97) <= high <= exact_quantile(episodes, np.mean, 0.98)
    )


def test_interval_is_a_function_of_its_seed():
    returns = np.random.default_rng(0).normal(size=(1, 40))
    assert statistics.bootstrap_interval(returns) == statistics.bootstrap_interval(returns, seed=0)
    assert statistics.bootstrap_interval(returns) != statistics.bootstrap_interval(returns, seed=1)


def test_interval_narrows_with_confidence_and_moves_with_the_scores():
    returns = np.random.default_rng(0).normal(size=(7, 4))
    low, high = statistics.bootstrap_interval(returns)
    inner_low, inner_high = statistics.bootstrap_interval(returns, confidence=0.5)
    assert low < inner_low < statistics.iqm(returns.mean(1)) < inner_high < high
    np.testing.assert_allclose(
        statistics.bootstrap_interval(3 * returns + 2), (3 * low + 2, 3 * high + 2)
    )


def test_interval_sees_seeds_and_not_the_number_of_episodes():
    scores = np.array([[1.0], [2.0], [4.0]])
    assert statistics.bootstrap_interval(scores) == statistics.bootstrap_interval(
        np.tile(scores, 50)
    )


@pytest.mark.parametrize(
    "scores", [[[3.5]], [[3.5] * 4], [[3.5]] * 4, [[3.5] * 2] * 4, [[3.0, 4.0], [3.5]]]
)
def test_interval_without_spread_is_a_point(scores):
    assert statistics.bootstrap_interval(scores) == (3.5, 3.5)


@pytest.mark.parametrize(
    "scores", [[[math.nan], [1.0]], [[1.0, math.inf]], [[math.nan]], [[math.inf], [-math.inf]]]
)
def test_interval_of_what_is_not_finite_is_unknown(scores):
    assert np.isnan(statistics.bootstrap_interval(scores)).all()


@pytest.mark.parametrize("confidence", [0, 1, 95, -0.5, math.nan])
def test_confidence_must_lie_between(confidence):
    with pytest.raises(InvalidInput, match=f"confidence is {confidence}"):
        statistics.bootstrap_interval([[1.0], [2.0]], confidence)


@pytest.mark.slow
def test_coverage_is_near_what_is_claimed():
    """With 20 seeds a percentile interval holds the truth somewhat less often than 95 %, not
    much."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        low, high = statistics.bootstrap_interval(rng.normal(5, 1, (20, 1)))
        hits += low <= 5 <= high
    assert hits >= 51


def test_summary_of_several_seeds():
    returns = [[1.0, 3.0], [10.0], [4.0, 4.0, 4.0], [6.0, 8.0], [1000.0]]
    summary = statistics.summarize_returns(returns)
    assert summary["per_seed"] == [2.0, 10.0, 4.0, 7.0, 1000.0]
    assert summary["mean"] == np.mean(summary["per_seed"])
    assert summary["std"] == np.std(summary["per_seed"], ddof=1)
    assert summary["iqm"] == 7.0
    assert summary["ci95"] == list(statistics.bootstrap_interval(returns))
    assert summary["returns"] == returns
    assert files.decode_json(files.encode_json(summary), "summary.json") == summary


def test_summary_of_one_seed_speaks_of_its_episodes():
    summary = statistics.summarize_returns([[1.0, 2.0, 3.0, 4.0, 90.0]])
    assert summary["mean"] == summary["iqm"] == 20.0 and summary["per_seed"] == [20.0]
    assert summary["std"] == np.std([1, 2, 3, 4, 90], ddof=1)
    assert summary["ci95"][0] < 20 < summary["ci95"][1]


def test_summary_of_one_value_and_of_none():
    assert statistics.summarize_returns(np.array([[5]])) == {
        "mean": 5.0,
        "std": 0.0,
        "iqm": 5.0,
        "ci95": [5.0, 5.0],
        "per_seed": [5.0],
        "returns": [[5.0]],
    }
    with pytest.raises(InvalidInput, match="no seed"):
        statistics.summarize_returns([])
    with pytest.raises(InvalidInput, match="seed 1 has no evaluation episode"):
        statistics.summarize_returns([[1.0], []])


def test_band_is_the_iqm_and_interval_of_every_row():
    curves = np.random.default_rng(0).normal(size=(6, 5))
    curves[:5, 1] = math.nan
    curves[:, 2] = math.nan
    curves[0, 3] = math.nan
    middle, low, high = statistics.bootstrap_band(curves)
    assert math.isnan(middle[2]) and np.isnan([low[1], high[1], low[2], high[2]]).all()
    assert middle[1] == curves[5, 1]
    for row in (0, 3, 4):
        values = curves[np.isfinite(curves[:, row]), row]
        assert middle[row] == pytest.approx(slow_iqm(values))
        expected = statistics.bootstrap_interval(values[:, None])
        np.testing.assert_allclose((low[row], high[row]), expected, atol=0.1)
    assert all(part.shape == (0,) for part in statistics.bootstrap_band(np.zeros((3, 0))))


@pytest.mark.slow
def test_a_run_does_not_wait_for_scipy_and_matplotlib():
    program = (
        "import sys, etude.storage.checkpoints, etude.storage.directories, etude.storage.files, "
        "etude.storage.metrics_csv, etude.reporting.figures, etude.reporting.statistics; "
        "sys.exit('scipy.stats' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.234e-6, "1.23e-06"),
        (-0.95499, "-0.955"),
        (0.0, "0"),
        (9.876, "9.88"),
        (123.456, "123.5"),
        (math.nan, "–"),
    ],
)
def test_figures_have_three_digits_at_least(value, shown):
    assert three_digits(value) == shown
