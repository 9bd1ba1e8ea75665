"""Replay that draws every transition equally often (Lin, 1992; Mnih et al., 2015)."""

from typing import Any

import jax

from etude.data.replay.ring_buffer import (
    Indices,
    RingBuffer,
    gather,
    init,
    insert,
    length,
    num_envs,
    num_valid,
    oldest,
)
from etude.types import Array

ReplayBuffer = RingBuffer

__all__ = ["ReplayBuffer", "init", "insert", "length", "sample", "sample_indices"]


def sample_indices(
    replay: ReplayBuffer, key: Array, batch_size: int, followers: int = 0
) -> Indices:
    """Rows [batch], drawn uniformly with replacement from those that at least `followers` rows of
    their copy follow.

    There must be one: `held(replay) > followers`.
    """
    n = num_envs(replay)
    number = jax.random.randint(key, (batch_size,), 0, n * (num_valid(replay) - followers))
    return Indices((oldest(replay) + number // n) % length(replay), number % n)


def sample(replay: ReplayBuffer, key: Array, batch_size: int) -> Any:
    """Transitions [batch, ...], drawn uniformly with replacement from those held, of which there
    must be one."""
    return gather(replay, sample_indices(replay, key, batch_size))
