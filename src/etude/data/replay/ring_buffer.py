"""A ring buffer of the latest transitions, which stores each image once (see `next_images`).

Rows are in the order of time, [time, env], so the next row of the same environment follows each
row.
"""

from typing import Any

import jax
import jax.numpy as jnp

from etude.counters import count_back
from etude.data.replay.next_images import (
    init_boundary,
    join_images,
    keep_newest,
    split_images,
    store_boundary,
)
from etude.data.transition import Transition
from etude.errors import InvalidInput
from etude.struct import replace, struct
from etude.types import Array


@struct
class RingBuffer:
    """Transitions [time, env]; each rollout continues the one before it, or starts new episodes."""

    storage: Any  # a tree with leaves [time, env, ...], None for the images of next_observation
    # int32: rows of time since the first insert, or a later one that many multiples of `time` after
    # it, so that the number does not overflow; the next row is inserted % time
    inserted: Array
    boundary: Any  # BoundaryStore, or () without images


@struct
class Indices:
    """Indices of transitions in a ring buffer, of any shape."""

    time: Array  # int32, below length(buffer)
    env: Array  # int32


def init(example: Any, capacity: int, num_envs: int, rollout_length: int) -> RingBuffer:
    """An empty buffer of at most `capacity` transitions like `example`, which has no leading axes.

    It holds a whole number of rollouts, so that each is written in place as one slice. A tree that
    is not a Transition is stored without treatment of images. Raises InvalidInput for a capacity
    below one rollout.
    """
    time = capacity // (num_envs * rollout_length) * rollout_length
    if not time:
        raise InvalidInput(
            f"capacity {capacity} cannot hold one rollout of {rollout_length * num_envs} "
            f"(rollout_length {rollout_length} × num_envs {num_envs}); give a larger buffer"
        )

    def empty(x):
        return jnp.zeros((time, num_envs, *x.shape), x.dtype)

    storage, images = split_images(example)
    boundary = init_boundary(images, time, num_envs, rollout_length)
    return RingBuffer(jax.tree.map(empty, storage), jnp.int32(0), boundary)


def insert(buffer: RingBuffer, rollout: Any) -> RingBuffer:
    """Write a rollout [rollout_length, env, ...] over the oldest rows.

    Raises InvalidInput for a buffer that is not a whole number of rollouts of this length.
    """
    storage, images = split_images(rollout, axes=2)
    rows, inserted = len(jax.tree.leaves(rollout)[0]), count_back(buffer.inserted, length(buffer))
    if length(buffer) % rows:
        raise InvalidInput(
            f"a rollout of {rows} steps does not divide the {length(buffer)} rows of the ring; "
            "give `init` the length of the rollouts to come"
        )

    def write(old, new):
        return jax.lax.dynamic_update_slice_in_dim(
            old, new.astype(old.dtype), jax.lax.rem(inserted, jnp.int32(length(buffer))), 0
        )

    boundary = store_boundary(
        buffer.boundary, rollout, images, inserted, buffer.inserted - inserted
    )
    return RingBuffer(jax.tree.map(write, buffer.storage, storage), inserted + rows, boundary)


def truncate_newest(buffer: RingBuffer, is_cut: Array) -> RingBuffer:
    """The buffer with the newest transition of each environment in `is_cut` [env] truncated.

    A transition that ends an episode already stays as it is.
    """
    row = buffer.inserted - 1
    newest = jax.tree.map(lambda x: x[row % length(buffer)], buffer.storage)
    is_cut = is_cut & ~newest.done & (row >= 0)
    truncated = buffer.storage.truncated.at[row % length(buffer)].set(newest.truncated | is_cut)
    boundary = keep_newest(buffer.boundary, is_cut, row) if buffer.boundary else ()
    return RingBuffer(replace(buffer.storage, truncated=truncated), buffer.inserted, boundary)


def gather(buffer: RingBuffer, indices: Indices) -> Any:
    """The transitions at `indices`, with the same leading shape."""
    transitions = jax.tree.map(lambda x: take(x, indices), buffer.storage)
    if not buffer.boundary:
        return transitions
    newest = is_newest(buffer, indices)
    next_indices = advance(buffer, indices, 1)
    return join_images(
        buffer.boundary,
        transitions,
        jax.tree.map(lambda x: take(x, next_indices), buffer.storage.observation),
        slot=jnp.where(newest, indices.env, take(buffer.boundary.slot, indices)),
        is_newest=newest,
    )


def take(x: Array, indices: Indices) -> Array:
    """The elements of x [time, env, ...] at `indices`."""
    return x.reshape(-1, *x.shape[2:])[indices.time * x.shape[1] + indices.env]


def advance(buffer: RingBuffer, indices: Indices, steps: int | Array) -> Indices:
    """The indices of the rows `steps` later in the same environments."""
    time = (indices.time + steps) % length(buffer)
    return Indices(time, jnp.broadcast_to(indices.env, time.shape))


def is_newest(buffer: RingBuffer, indices: Indices) -> Array:
    """True where an index is that of the newest row."""
    return indices.time == (buffer.inserted - 1) % length(buffer)


def oldest(buffer: RingBuffer) -> Array:
    """int32: the oldest row of time in the buffer, counted from the first insert."""
    overwritten = jnp.maximum(buffer.inserted - length(buffer), 0)
    return jnp.maximum(overwritten, buffer.boundary.oldest) if buffer.boundary else overwritten


def num_valid(buffer: RingBuffer) -> Array:
    """int32: the number of rows of time that can be sampled, of each environment."""
    return buffer.inserted - oldest(buffer)


def length(buffer: RingBuffer) -> int:
    """The capacity in rows of time."""
    return jax.tree.leaves(buffer.storage)[0].shape[0]


def num_envs(buffer: RingBuffer) -> int:
    """The number of environments."""
    return jax.tree.leaves(buffer.storage)[0].shape[1]


def buffer_of(transitions: Transition) -> RingBuffer:
    """A full buffer of one environment that holds these transitions [time, ...], in their order.

    The last of them must end an episode.
    """
    storage = jax.tree.map(lambda x: x[:, None], transitions)
    return RingBuffer(storage, jnp.int32(len(transitions.reward)), ())
