"""Uniform replay: every transition is sampled equally often (Lin, 1992; Mnih et al., 2015)."""

import jax
import jax.numpy as jnp

from etude.data.replay.ring_buffer import Indices, RingBuffer, length, num_envs, num_valid, oldest
from etude.struct import struct
from etude.types import Array


@struct
class Uniform:
    """Uniform replay, which has no priorities: the methods of `Prioritized` with nothing to do."""

    def init_priorities(self, buffer: RingBuffer) -> tuple[()]:
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


def sample_indices(buffer: RingBuffer, key: Array, batch_size: int) -> Indices:
    """Indices [batch] of rows, uniform with replacement; the buffer must not be empty."""
    n = num_envs(buffer)
    row = jax.random.randint(key, (batch_size,), 0, n * num_valid(buffer))
    # div and rem are what // and % are of numbers that are not negative, at less cost
    time = jax.lax.rem(oldest(buffer) + jax.lax.div(row, n), length(buffer))
    return Indices(time, jax.lax.rem(row, n))
