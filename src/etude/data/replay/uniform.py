"""Uniform replay: every transition is sampled equally often (Lin, 1992; Mnih et al., 2015)."""

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
    replay: ReplayBuffer, key: Array, batch_size: int, successors: int = 0
) -> Indices:
    """Indices [batch], uniform with replacement, of rows that `successors` or more rows follow.

    Such a row must exist: `num_valid(replay) > successors`.
    """
    n = num_envs(replay)
    flat_index = jax.random.randint(key, (batch_size,), 0, n * (num_valid(replay) - successors))
    return Indices((oldest(replay) + flat_index // n) % length(replay), flat_index % n)


def sample(replay: ReplayBuffer, key: Array, batch_size: int) -> Any:
    """Transitions [batch, ...], uniform with replacement; the buffer must not be empty."""
    return gather(replay, sample_indices(replay, key, batch_size))
