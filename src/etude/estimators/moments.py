"""Running mean and variance, merged batch by batch (Chan, Golub & LeVeque, 1979)."""
from typing import Any

import jax
import jax.numpy as jnp

from etude.spaces import MASK, Box, Space, leaves
from etude.struct import struct

Array = jax.Array
MAX_COUNT = 2**30      # beyond it new samples keep this weight, and an int32 never overflows


@struct
class Moments:
    """Of samples of any one shape."""
    mean: Array
    variance: Array
    count: Array           # int32: samples seen


def init(shape: tuple[int, ...]) -> Moments:
    """Before the first sample: mean 0, variance 1, so that normalising changes nothing."""
    return Moments(jnp.zeros(shape), jnp.ones(shape), jnp.int32(0))


def update(moments: Moments, samples: Array) -> Moments:
    """The moments with `samples` [n, *shape] added."""
    n = samples.shape[0]
    count = jnp.minimum(moments.count, MAX_COUNT) + n
    share = n / count                                                     # the new samples' weight
    mean, variance = samples.mean(0), samples.var(0)
    shift = mean - moments.mean
    merged = (1 - share) * moments.variance + share * variance + share * (1 - share) * shift**2
    return Moments(moments.mean + share * shift, merged, count)


def normalise(moments: Moments, x: Array, limit: float = 10.0) -> Array:
    """(x - mean) / std, clipped to ±`limit`; x is [..., *shape]."""
    return jnp.clip((x - moments.mean) * jax.lax.rsqrt(moments.variance + 1e-8), -limit, limit)


def of_observations(space: Space) -> tuple[Moments | None, ...]:
    """For each leaf of an observation the moments to normalise it by; None for choices, images and masks, which have a scale."""
    return tuple(init(leaf.shape) if isinstance(leaf, Box) and leaf.dtype != "uint8" and path[-1:] != (MASK,) else None
                 for path, leaf in leaves(space))


def update_observations(each: tuple[Moments | None, ...], observation: Any) -> tuple[Moments | None, ...]:
    """The moments with observations [n, ...] added."""
    return tuple(one and update(one, x) for one, x in zip(each, jax.tree.leaves(observation), strict=True))


def normalise_observations(each: tuple[Moments | None, ...], observation: Any) -> Any:
    """The observation with each leaf that has moments normalised by them; leading axes are any."""
    values, structure = jax.tree.flatten(observation)
    return jax.tree.unflatten(structure, [normalise(one, x) if one else x for one, x in zip(each, values, strict=True)])
