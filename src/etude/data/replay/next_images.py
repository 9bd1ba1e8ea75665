"""Images of next observations, which a ring buffer stores only where no row holds them.

The next observation of a row is the observation of the next row, so the images (uint8 of two or
more axes) of `next_observation` are not stored again. There are two exceptions, whose next
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
    count: Array  # int32: number of truncated rows since the first insert, modulo that of the slots
    # int32: rows of time before this one are dropped, for a slot of theirs was overwritten
    oldest: Array


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


def init_boundary(images: Any, time: int, num_envs: int, rollout_length: int) -> Any:
    """The empty store of a ring buffer of [time, env] rows for `images` like these; () for none."""
    if not jax.tree.leaves(images):
        return ()
    num_slots = num_envs * max(time // ROWS_PER_SLOT + 1, rollout_length)
    return BoundaryStore(
        jax.tree.map(lambda x: jnp.zeros((num_envs + num_slots, *x.shape), x.dtype), images),
        jnp.zeros((time, num_envs), jnp.int32),
        jnp.full(num_slots, -1, jnp.int32),
        jnp.int32(0),
        jnp.int32(0),
    )


def store_boundary(
    boundary: Any, rollout: Transition, images: Any, inserted: Array, dropped: Array
) -> Any:
    """The store after an insert: with the next images of the newest and truncated rows.

    `images` are those of the rollout's next observations, [rollout_length, env, ...]; `inserted` is
    the number of rows of time before it, counted from `dropped` rows later than in `boundary`. A
    store of no images, (), stays so.
    """
    if not boundary:
        return ()
    boundary = replace(
        boundary,
        row=jnp.maximum(boundary.row - dropped, -1),
        oldest=jnp.maximum(boundary.oldest - dropped, 0),
    )
    (time, envs), num_slots = boundary.slot.shape, boundary.row.size
    truncated = rollout.truncated & ~rollout.terminated
    slot = (boundary.count + jnp.cumsum(truncated).reshape(truncated.shape)) % num_slots
    written_slot = jnp.where(truncated, slot, num_slots)  # out of range: nothing is written
    row = inserted + jnp.broadcast_to(jnp.arange(len(truncated))[:, None], truncated.shape)

    def write(old, new):
        old = old.at[(envs + written_slot).ravel()].set(
            new.reshape(-1, *new.shape[2:]), mode="drop"
        )
        return jax.lax.dynamic_update_slice_in_dim(old, new[-1], 0, 0)

    newest_overwritten = jnp.where(truncated, boundary.row[slot], -1).max()
    return BoundaryStore(
        jax.tree.map(write, boundary.images, images),
        jax.lax.dynamic_update_slice_in_dim(boundary.slot, envs + slot, inserted % time, 0),
        boundary.row.at[written_slot].set(row, mode="drop"),
        (boundary.count + truncated.sum()) % num_slots,
        jnp.maximum(boundary.oldest, newest_overwritten + 1),
    )


def keep_newest(boundary: BoundaryStore, is_cut: Array, row: Array) -> BoundaryStore:
    """The store with the next images of the newest `row` kept for the environments in `is_cut`.

    There the row is truncated after it was inserted, so the next row does not follow it.
    """
    (time, envs), num_slots = boundary.slot.shape, boundary.row.size
    slot = (boundary.count + jnp.cumsum(is_cut)) % num_slots
    written_slot = jnp.where(is_cut, slot, num_slots)  # out of range: nothing is written
    newest_overwritten = jnp.where(is_cut, boundary.row[slot], -1).max()
    return BoundaryStore(
        jax.tree.map(
            lambda x: x.at[envs + written_slot].set(x[:envs], mode="drop"), boundary.images
        ),
        boundary.slot.at[row % time].set(jnp.where(is_cut, envs + slot, boundary.slot[row % time])),
        boundary.row.at[written_slot].set(row, mode="drop"),
        (boundary.count + is_cut.sum()) % num_slots,
        jnp.maximum(boundary.oldest, newest_overwritten + 1),
    )


def join_images(
    boundary: BoundaryStore,
    transitions: Transition,
    next_rows: Any,
    *,
    slot: Array,
    is_newest: Array,
) -> Transition:
    """The transitions [...] with the images of their next observations.

    `next_rows` are the observations of the rows after them, and `slot` the place of their image in
    the store where it is there.
    """
    is_stored = is_newest | transitions.truncated & ~transitions.terminated

    def next_leaf(leaf, boundary_images, next_image):
        if leaf is not None:
            return leaf
        trailing_axes = (1,) * (next_image.ndim - is_stored.ndim)
        return jnp.where(
            is_stored.reshape(*is_stored.shape, *trailing_axes), boundary_images[slot], next_image
        )

    next_observation = jax.tree.map(
        next_leaf,
        transitions.next_observation,
        boundary.images,
        next_rows,
        is_leaf=lambda x: x is None,
    )
    return replace(transitions, next_observation=next_observation)
