"""A ring buffer of the latest transitions that stores each image once.

Rows are in the order of time, [time, env], so the next row of the same environment follows each
row. The next observation of a row is then the observation of the next row, and the images (uint8 of
two or more axes) of `next_observation` are not stored again. There are two exceptions, whose next
observation is no row's observation and goes to a BoundaryStore: the newest row of each environment,
and truncated rows. For truncated rows it has one slot per 64 rows, so with time limits of 64 steps
and more the buffer is full at its capacity. When shorter episodes have used all slots, the buffer
drops its oldest rows sooner. So every row has its true next observation, but for terminated rows,
whose next value is zero: their image may be the first of the next episode.

A transition with images of 84×84×4 takes 28,224 bytes for the image, 441 for its part of the slots
and 14 for the rest: 2.87 GB at a capacity of 100,000. With `next_observation` stored as well it
would take 56,458 bytes: 5.65 GB.
"""

from typing import Any

import jax
import jax.numpy as jnp

from etude.data.transition import Transition
from etude.errors import InvalidInput
from etude.estimators import returns
from etude.struct import replace, struct
from etude.types import Array

ROWS_PER_SLOT = 64  # rows of an environment for each slot of a truncated row's next observation


@struct
class BoundaryStore:
    """The images of next observations that are no row's observation.

    The first `env` of them follow the newest rows; the others are slots of a ring for truncated
    rows.
    """

    # a tree like next_observation with leaves [env + slots, ...], None where a leaf is no image
    images: Any
    slot: Array  # int32 [time, env]: the index in `images` of a truncated row's next observation
    # int32 [slots]: the row of time, counted from the first insert, of each slot; -1: none
    row: Array
    count: Array  # int32: number of truncated rows since the first insert
    # int32: rows of time before this one are dropped, for a slot of theirs was overwritten
    oldest: Array


@struct
class RingBuffer:
    """Transitions [time, env]; each rollout continues the one before it, or starts new episodes."""

    storage: Any  # a tree with leaves [time, env, ...], None for the images of next_observation
    inserted: Array  # int32: rows of time since the first insert; the next is inserted % time
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

    def empty(*leading):
        return lambda x: jnp.zeros((*leading, *x.shape), x.dtype)

    storage, images = split_images(example)
    boundary: Any = ()
    if jax.tree.leaves(images):
        num_slots = num_envs * max(time // ROWS_PER_SLOT + 1, rollout_length)
        boundary = BoundaryStore(
            jax.tree.map(empty(num_envs + num_slots), images),
            jnp.zeros((time, num_envs), jnp.int32),
            jnp.full(num_slots, -1, jnp.int32),
            jnp.int32(0),
            jnp.int32(0),
        )
    return RingBuffer(jax.tree.map(empty(time, num_envs), storage), jnp.int32(0), boundary)


def split_images(tree: Any, axes: int = 0) -> tuple[Any, Any]:
    """(a tree [*axes, ...] without the images of its next_observation, these images).

    None stands for each missing leaf.
    """
    if not isinstance(tree, Transition):
        return tree, ()
    is_image = lambda x: x.dtype == jnp.uint8 and x.ndim - axes >= 2
    other_leaves = jax.tree.map(lambda x: None if is_image(x) else x, tree.next_observation)
    return replace(tree, next_observation=other_leaves), jax.tree.map(
        lambda x: x if is_image(x) else None, tree.next_observation
    )


def insert(buffer: RingBuffer, rollout: Any) -> RingBuffer:
    """Write a rollout [rollout_length, env, ...] over the oldest rows.

    Raises InvalidInput for a buffer that is not a whole number of rollouts of this length.
    """
    storage, images = split_images(rollout, axes=2)
    rows, start = jax.tree.leaves(rollout)[0].shape[0], buffer.inserted % length(buffer)
    if length(buffer) % rows:
        raise InvalidInput(
            f"a rollout of {rows} steps does not divide the {length(buffer)} rows of the ring; "
            "give `init` the length of the rollouts to come"
        )

    def write(old, new):
        return jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), start, 0)

    boundary = store_boundary(buffer, rollout, images) if buffer.boundary else ()
    return RingBuffer(
        jax.tree.map(write, buffer.storage, storage), buffer.inserted + rows, boundary
    )


def store_boundary(buffer: RingBuffer, rollout: Transition, images: Any) -> BoundaryStore:
    """The BoundaryStore after an insert: with the next images of the newest and truncated rows.

    `images` are those of the rollout's next observations, [rollout_length, env, ...].
    """
    boundary, envs, num_slots = buffer.boundary, num_envs(buffer), buffer.boundary.row.size
    truncated = rollout.truncated & ~rollout.terminated
    slot = (boundary.count + jnp.cumsum(truncated).reshape(truncated.shape)) % num_slots
    written_slot = jnp.where(truncated, slot, num_slots)  # out of range: nothing is written
    row = buffer.inserted + jnp.broadcast_to(jnp.arange(len(truncated))[:, None], truncated.shape)

    def write(old, new):
        old = old.at[(envs + written_slot).ravel()].set(
            new.reshape(-1, *new.shape[2:]), mode="drop"
        )
        return jax.lax.dynamic_update_slice_in_dim(old, new[-1], 0, 0)

    newest_overwritten = jnp.where(truncated, boundary.row[slot], -1).max()
    return BoundaryStore(
        jax.tree.map(write, boundary.images, images),
        jax.lax.dynamic_update_slice_in_dim(
            boundary.slot, envs + slot, buffer.inserted % length(buffer), 0
        ),
        boundary.row.at[written_slot].set(row, mode="drop"),
        boundary.count + truncated.sum(),
        jnp.maximum(boundary.oldest, newest_overwritten + 1),
    )


def gather(buffer: RingBuffer, indices: Indices) -> Any:
    """The transitions at `indices`, with the same leading shape."""
    transitions = jax.tree.map(lambda x: take(x, indices), buffer.storage)
    if not buffer.boundary:
        return transitions
    newest, truncated = (
        is_newest(buffer, indices),
        transitions.truncated & ~transitions.terminated,
    )
    slot = jnp.where(newest, indices.env, take(buffer.boundary.slot, indices))
    next_indices = advance(buffer, indices, 1)

    def next_leaf(stored, boundary_images, observation):
        if stored is not None:
            return stored
        next_image = take(observation, next_indices)
        return jnp.where(
            (newest | truncated).reshape(
                *truncated.shape, *(1,) * (next_image.ndim - truncated.ndim)
            ),
            boundary_images[slot],
            next_image,
        )

    return replace(
        transitions,
        next_observation=jax.tree.map(
            next_leaf,
            transitions.next_observation,
            buffer.boundary.images,
            buffer.storage.observation,
            is_leaf=lambda x: x is None,
        ),
    )


def take(x: Array, indices: Indices) -> Array:
    """The elements of x [time, env, ...] at `indices`."""
    return x.reshape(-1, *x.shape[2:])[indices.time * x.shape[1] + indices.env]


def window(buffer: RingBuffer, indices: Indices, n: int) -> Any:
    """The transitions [n, batch] at `indices` [batch] and the n - 1 that follow each of them.

    They are of the same environment. Where a window extends past the newest row, that row of a
    Transition is marked as truncated, and the rows after it are to be ignored.
    """
    window_indices = advance(buffer, indices, jnp.arange(n)[:, None])
    transitions = gather(buffer, window_indices)
    if not isinstance(transitions, Transition):
        return transitions
    at_newest = (
        is_newest(buffer, window_indices)
        & (jnp.arange(n) < n - 1)[:, None]
        & ~transitions.terminated
    )
    return replace(transitions, truncated=transitions.truncated | at_newest)


def n_step_transitions(
    buffer: RingBuffer, indices: Indices, n: int, discount: float | Array
) -> tuple[Transition, Array]:
    """(n-step transitions [batch] from `indices` [batch], their bootstrap discounts [batch]).

    Each folds at most n rows as in `estimators.returns.fold_n_steps`. A window that extends past
    the newest row bootstraps from there. Compiled, it gathers no images but those of the first and
    last row of each window.
    """
    window_indices, transitions = (
        advance(buffer, indices, jnp.arange(n)[:, None]),
        window(buffer, indices, n),
    )
    reward, last_indices, _, bootstrap_discount = returns.fold_n_steps(
        transitions.reward, window_indices, transitions.terminated, transitions.done, discount
    )
    first, last = gather(buffer, indices), gather(buffer, last_indices)
    return replace(
        first,
        reward=reward,
        next_observation=last.next_observation,
        terminated=last.terminated,
        truncated=last.truncated,
    ), bootstrap_discount


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
