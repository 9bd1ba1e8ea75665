"""Running mean and variance for normalization, updated by batches (Chan et al., 1979)."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from etude.spaces import ACTION_MASK, Box, Space, leaves_with_path
from etude.struct import struct, traced
from etude.types import Array

RELATIVE_SPREAD = 3e-6  # the least std that counts, as a fraction of the mean
SMALLEST_VARIANCE = 1e-30  # of all units that float32 squares well
MAX_COUNT = 2**30  # cap of the count: from there on weights stay, and int32 is safe


@struct
class Normalization:
    """Normalization by running statistics, as a setting of an algorithm."""

    clip: float = traced(10.0, above=0, infinite=True)
    """Largest absolute value after normalization."""


@struct
class RunningMeanStd:
    """Mean and variance of samples of one shape."""

    mean: Array
    variance: Array
    count: Array  # int32: number of samples


def init_statistics(shape: tuple[int, ...]) -> RunningMeanStd:
    """Statistics of no samples: mean 0 and variance 1, with which `normalize` only clips."""
    return RunningMeanStd(jnp.zeros(shape), jnp.ones(shape), jnp.int32(0))


def update_statistics(
    statistics: RunningMeanStd, samples: Array, is_counted: Array | None = None
) -> RunningMeanStd:
    """The statistics with `samples` [n, *shape] added; with `is_counted`, bool [n], only those."""
    n: int | Array = samples.shape[0]
    some: dict[str, Any] = {}
    if is_counted is not None:
        n, some = is_counted.sum(), {"where": is_counted.reshape(-1, *[1] * (samples.ndim - 1))}
    count = jnp.minimum(statistics.count, MAX_COUNT) + n
    weight = n / count  # of the new samples
    mean, variance = samples.mean(0, **some), samples.var(0, **some)
    shift = mean - statistics.mean
    merged = (
        (1 - weight) * statistics.variance + weight * variance + weight * (1 - weight) * shift**2
    )
    updated = RunningMeanStd(statistics.mean + weight * shift, merged, count)
    if is_counted is None:
        return updated
    # the mean of no samples is NaN
    return jax.tree.map(partial(jnp.where, n > 0), updated, statistics)


def normalize(statistics: RunningMeanStd, x: Array, clip: float | Array) -> Array:
    """(x - mean) / std, clipped to ±`clip`; x is [..., *shape]."""
    return jnp.clip((x - statistics.mean) * inverse_std(statistics), -clip, clip)


def inverse_std(statistics: RunningMeanStd) -> Array:
    """1 / std, in whatever unit the samples are; large but finite where all are equal.

    The rounding errors of a constant, which are a fraction of it, do not count as its spread.
    """
    smallest = (RELATIVE_SPREAD * statistics.mean) ** 2 + SMALLEST_VARIANCE
    return jax.lax.rsqrt(statistics.variance + smallest)


def init_observation_statistics(space: Space) -> tuple[RunningMeanStd | None, ...]:
    """Statistics for each leaf of an observation; None for discrete leaves and masks."""
    return tuple(
        init_statistics(leaf.shape)
        if isinstance(leaf, Box) and path[-1:] != (ACTION_MASK,)
        else None
        for path, leaf in leaves_with_path(space)
    )


def update_observation_statistics(
    normalization: Normalization | None,
    statistics: tuple[RunningMeanStd | None, ...],
    observation: Any,
    is_counted: Array | None = None,
) -> tuple[RunningMeanStd | None, ...]:
    """The statistics with observations [n, ...] added, as `update_statistics` adds samples.

    Without a `normalization` nothing is added.
    """
    if not normalization:
        return statistics
    return tuple(
        leaf_statistics and update_statistics(leaf_statistics, x, is_counted)
        for leaf_statistics, x in zip(statistics, jax.tree.leaves(observation), strict=True)
    )


def normalize_leaves(
    normalization: Normalization | None,
    statistics: tuple[RunningMeanStd | None, ...],
    observation: Any,
) -> Any:
    """The observation with each leaf that has statistics normalized; leading axes are any.

    Without a `normalization` it is returned as it is.
    """
    if not normalization:
        return observation
    values, structure = jax.tree.flatten(observation)
    return jax.tree.unflatten(
        structure,
        [
            normalize(leaf_statistics, x, normalization.clip) if leaf_statistics else x
            for leaf_statistics, x in zip(statistics, values, strict=True)
        ],
    )
