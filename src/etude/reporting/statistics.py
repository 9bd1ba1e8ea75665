"""Statistics of returns over seeds: interquartile means and bootstrap confidence intervals.

The unit of evidence is the seed: its score is the mean return of its evaluation episodes, and the
summary of several seeds is the interquartile mean (IQM) of their scores with a bootstrap interval
over seeds, as in Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical
Precipice", 2021 (rliable; a single task is one stratum). Episodes are never pooled over seeds,
since many episodes of few trained policies are little evidence, and never trimmed within a seed,
since that hides a policy's failures.
"""

import math
from collections.abc import Sequence

import numpy as np

from etude.errors import InvalidInput

RESAMPLES = 10_000
BAND_RESAMPLES = 1_000  # for each point of a curve
_BATCH = 500  # resamples in memory at a time


def three_digits(value: float) -> str:
    """A figure as it is shown: three significant digits, one decimal from 10 on; – for NaN."""
    return "–" if math.isnan(value) else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def iqm(values) -> float:
    """Interquartile mean: the mean without the lowest and the highest quarter (rounded down).

    Values have any shape and are flattened; fewer than four are averaged. NaN if any is NaN. Raises
    InvalidInput for no values.
    """
    values = np.asarray(values, float)
    if not values.size:
        raise InvalidInput("the interquartile mean of no values is not defined; give at least one")
    return math.nan if np.isnan(values).any() else float(_trimmed(values.ravel(), -1))


def bootstrap_interval(
    scores: Sequence, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the IQM over seeds; `scores` are returns [seed][episode].

    Rows have any length. Seeds are resampled, each with its mean return. Of a single seed the
    episodes are resampled: the interval is that of their mean, for this policy and not for the
    algorithm. The same `seed` gives the same interval. A single value, or equal values, give that
    value twice; a return that is not finite gives NaN twice. Raises InvalidInput for no seed, a
    seed without an episode and a confidence that does not lie between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise InvalidInput(f"confidence is {confidence}; it must lie between 0 and 1, such as 0.95")
    rows = _rows(scores)
    samples, statistic = (_scores(rows), _trimmed) if len(rows) > 1 else (rows[0], np.mean)
    if not np.isfinite(samples).all():
        return math.nan, math.nan
    if np.all(samples == samples[0]):
        return float(samples[0]), float(samples[0])
    from scipy.stats import bootstrap  # over a second to import, so only where it is needed

    result = bootstrap(
        (samples,),
        statistic,
        n_resamples=RESAMPLES,
        batch=_BATCH,
        vectorized=True,
        axis=-1,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def summarize_returns(returns: Sequence, seed: int = 0) -> dict:
    """Summarize evaluation returns [seed][episode], rows of any length, as plain numbers.

    mean, std  of the seeds' scores, with the sample deviation; std is that of the episodes for a
               single seed, and 0 for a single value
    iqm, ci95  interquartile mean of the seeds' scores and its 95 % interval [low, high]
    per_seed   the scores, [seed]
    returns    the argument, [seed][episode]

    Raises InvalidInput when there is no seed, or a seed without an episode.
    """
    rows = _rows(returns)
    scores = _scores(rows)
    samples = scores if len(rows) > 1 else rows[0]
    return {
        "mean": float(scores.mean()),
        "std": float(samples.std(ddof=1)) if samples.size > 1 else 0.0,
        "iqm": iqm(scores),
        "ci95": list(bootstrap_interval(rows, seed=seed)),
        "per_seed": scores.tolist(),
        "returns": [row.tolist() for row in rows],
    }


def bootstrap_band(
    curves, confidence: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the IQM over seeds and its bootstrap interval, three arrays [row], of `curves`.

    `curves` are [seed, row]. A NaN is a missing value and is left out. The IQM is NaN where no seed
    has a value, the interval where fewer than two have one.
    """
    curves = np.asarray(curves, float)
    center, low, high = np.full((3, curves.shape[1]), math.nan)
    present = np.isfinite(curves)
    tail_percent = 50 * (1 - confidence)
    for count in np.unique(present.sum(0)):
        if not count:
            continue
        rows = np.flatnonzero(present.sum(0) == count)
        resampled = np.random.default_rng(seed).integers(count, size=(BAND_RESAMPLES, count))
        for row in rows:
            values = curves[present[:, row], row]
            center[row] = _trimmed(values, -1)
            if count > 1:
                low[row], high[row] = np.percentile(
                    _trimmed(values[resampled], -1), [tail_percent, 100 - tail_percent]
                )
    return center, low, high


def _rows(returns):
    rows = [np.asarray(row, float).reshape(-1) for row in returns]
    if not rows:
        raise InvalidInput("there is no seed to summarize; evaluate at least one")
    for i, row in enumerate(rows):
        if not row.size:
            raise InvalidInput(
                f"seed {i} has no evaluation episode; evaluate at least one for every seed"
            )
    return rows


def _scores(rows):
    return np.array([row.mean() for row in rows])


def _trimmed(values, axis):
    from scipy.stats import trim_mean

    return trim_mean(values, 0.25, axis=axis)
