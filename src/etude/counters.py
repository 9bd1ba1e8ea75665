"""Counters of a run that never wrap, however long it is: int32 holds up to 2³¹ - 1."""

import jax
import jax.numpy as jnp

from etude.types import Array

MAX_COUNT = 2**31 - 1  # the largest int32
MAX_ROW_LENGTH = 2**16  # iterations of a row of metrics: float32 adds up no more of them well
_CYCLE = 2**29


def count_up(count: Array, increment: int | Array) -> Array:
    """count + increment, at most 2³¹ - 1: a count of steps that schedules read, say."""
    return jnp.minimum(count, MAX_COUNT - increment) + increment


def count_back(count: Array, period: int) -> Array:
    """The count, less a multiple of `period` where it is near the largest int32: a cyclic counter.

    It equals `count` modulo `period`, and once it is above 2²⁸ it stays so. `period` is at most
    2²⁸.
    """
    multiple = _CYCLE // period * period
    return jnp.where(count < 2 * multiple, count, count - multiple)


def is_multiple(count: Array, period: int) -> Array:
    """Whether a count, which is not negative, is a multiple of `period`."""
    return jax.lax.rem(count, jnp.int32(period)) == 0
