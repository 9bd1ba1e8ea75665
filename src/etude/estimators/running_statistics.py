"""Running mean and variance, merged batch by batch (Chan, Golub & LeVeque, 1979)."""

from typing import Any

import jax
import jax.numpy as jnp

from etude.spaces import ACTION_MASK, Box, Space, leaves_with_path
from etude.struct import struct
from etude.types import Array

MAX_COUNT = 2**30  # beyond it new samples keep this weight, and an int32 never overflows


@struct
class RunningMeanStd:
    """Of samples of any one shape."""

    mean: Array
    variance: Array
    count: Array  # int32: samples seen


def init_statistics(shape: tuple[int, ...]) -> RunningMeanStd:
    """Before the first sample: mean 0, variance 1, so that normalizing changes nothing."""
    return RunningMeanStd(jnp.zeros(shape), jnp.ones(shape), jnp.int32(0))


def update_statistics(moments: RunningMeanStd, samples: Array) -> RunningMeanStd:
    """The moments with `samples` [n, *shape] added."""
    n = samples.shape[0]
    count = jnp.minimum(moments.count, MAX_COUNT) + n
    share = n / count  # the new samples' weight
    mean, variance = samples.mean(0), samples.var(0)
    shift = mean - moments.mean
    merged = (1 - share) * moments.variance + share * variance + share * (1 - share) * shift**2
    return RunningMeanStd(moments.mean + share * shift, merged, count)


def normalize(moments: RunningMeanStd, x: Array, limit: float = 10.0) -> Array:
    """(x - mean) / std, clipped to ±`limit`; x is [..., *shape]."""
    return jnp.clip((x - moments.mean) * jax.lax.rsqrt(moments.variance + 1e-8), -limit, limit)


def init_observation_statistics(space: Space) -> tuple[RunningMeanStd | None, ...]:
    """For each leaf of an observation the moments to normalize it by; None for choices, images and
    masks, which have a scale."""
    return tuple(
        init_statistics(leaf.shape)
        if isinstance(leaf, Box) and leaf.dtype != "uint8" and path[-1:] != (ACTION_MASK,)
        else None
        for path, leaf in leaves_with_path(space)
    )


def update_observation_statistics(
    each: tuple[RunningMeanStd | None, ...], observation: Any
) -> tuple[RunningMeanStd | None, ...]:
    """The moments with observations [n, ...] added."""
    return tuple(
        one and update_statistics(one, x)
        for one, x in zip(each, jax.tree.leaves(observation), strict=True)
    )


def normalize_leaves(each: tuple[RunningMeanStd | None, ...], observation: Any) -> Any:
    """The observation with each leaf that has moments normalized by them; leading axes are any."""
    values, structure = jax.tree.flatten(observation)
    return jax.tree.unflatten(
        structure, [normalize(one, x) if one else x for one, x in zip(each, values, strict=True)]
    )
