"""A ring of the latest transitions, drawn from uniformly (Lin, 1992; Mnih et al., 2015)."""
from typing import Any

import jax
import jax.numpy as jnp

from etude.struct import struct

Array = jax.Array


@struct
class Replay:
    """Transitions as they were lived, so that what follows a row is the next row of the same copy."""
    storage: Any           # a tree with leaves [time, env, ...]
    inserted: Array        # int32: rows of time ever inserted; the next goes to inserted % time


def init(example: Any, capacity: int, num_envs: int, rollout_length: int) -> Replay:
    """An empty ring of at most `capacity` transitions like `example`, which has no leading axes.

    It holds a whole number of rollouts, so that each is written in place as one slice.
    """
    time = capacity // (num_envs * rollout_length) * rollout_length
    return Replay(jax.tree.map(lambda x: jnp.zeros((time, num_envs, *x.shape), x.dtype), example), jnp.int32(0))


def insert(replay: Replay, rollout: Any) -> Replay:
    """Add a rollout [rollout_length, env, ...] in place of the oldest."""
    slot = replay.inserted % length(replay)

    def write(old, new):
        return jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), slot, 0)
    rows = jax.tree.leaves(rollout)[0].shape[0]
    return Replay(jax.tree.map(write, replay.storage, rollout), replay.inserted + rows)


def sample(replay: Replay, key: Array, batch_size: int) -> Any:
    """Transitions [batch, ...], drawn uniformly with replacement."""
    num_envs = jax.tree.leaves(replay.storage)[0].shape[1]
    rows = jax.random.randint(key, (batch_size,), 0, num_envs * jnp.minimum(replay.inserted, length(replay)))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[rows], replay.storage)


def length(replay: Replay) -> int:
    """Rows of time the ring holds."""
    return jax.tree.leaves(replay.storage)[0].shape[0]
