"""Uniform replay: every transition is sampled equally often (Lin, 1992; Mnih et al., 2015)."""

from typing import Any

import jax
import jax.numpy as jnp

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
from etude.struct import struct
from etude.types import Array

ReplayBuffer = RingBuffer

__all__ = ["ReplayBuffer", "Uniform", "init", "insert", "length", "sample", "sample_indices"]


@struct
class Uniform:
    """Uniform replay, which has no priorities: the methods of `Prioritized` with nothing to do."""

    def init_priorities(self, buffer: RingBuffer, rows: int = 0) -> tuple[()]:
        return ()

    def insert(
        self, priorities: tuple[()], old_buffer: RingBuffer, buffer: RingBuffer, rows: int
    ) -> tuple[()]:
        return ()

    def sample_indices(
        self, priorities: tuple[()], buffer: RingBuffer, key: Array, batch_size: int, steps: Array
    ) -> tuple[Indices, Array]:
        """(indices [batch], the weight 1 of all of them in the loss)."""
        return sample_indices(buffer, key, batch_size), jnp.float32(1)

    def update_priorities(
        self, priorities: tuple[()], buffer: RingBuffer, indices: Indices, td_error: Array
    ) -> tuple[()]:
        return ()


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
