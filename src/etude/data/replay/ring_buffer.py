"""A ring of the latest transitions, in which a picture is stored once.

Rows lie as they were lived, [time, env], so that what follows a row is the next row of the same
copy. The successor of a row is then the next row's observation, and pictures (uint8 of two axes and
more) among the leaves of `next_observation` are not stored again. Two kinds of row have a successor
that no row observes, and it is set aside: the newest of each copy, and those where an episode was
cut off. Of the latter there is a place for one in 64 rows, so with time limits of 64 steps and more
the ring is full as it should be; when shorter ones have used up the places, the ring forgets its
oldest rows sooner. So every row it holds has its true successor, but for those that terminated,
whose future is worth zero: there the picture of `next_observation` may be the next episode's first.

Bytes a transition with pictures of 84×84×4: 28,224 for the picture, 441 for its part of the places
and 14 for the rest, 2.87 GB at a capacity of 100,000. Storing `next_observation` as well would take
56,458 bytes, 5.65 GB.
"""

from typing import Any

import jax
import jax.numpy as jnp

from etude.data.transition import Transition
from etude.errors import InvalidInput
from etude.estimators import returns
from etude.struct import replace, struct
from etude.types import Array

ROWS_PER_SLOT = 64  # rows of a copy for each place of a successor that was cut off


@struct
class BoundaryStore:
    """The pictures that follow a row and are no row's observation.

    The first `env` of them follow the newest rows; the others are a ring of their own.
    """

    # a tree like next_observation with leaves [env + places, ...], None where not a picture
    images: Any
    slot: Array  # int32 [time, env]: where the successor of a row that was cut off lies
    # int32 [places]: the row of time, of all ever inserted, that each was kept for; -1: none
    row: Array
    count: Array  # int32: pictures of rows cut off ever set aside
    # int32: rows of time before this one are forgotten, a successor of theirs being lost
    oldest: Array


@struct
class RingBuffer:
    """Transitions of which each rollout goes on where the one before stopped, or where that one's
    episodes were done."""

    storage: Any  # a tree with leaves [time, env, ...], None for the pictures of next_observation
    inserted: Array  # int32: rows of time ever inserted; the next goes to inserted % time
    boundary: Any  # Aside, or () where there are no pictures


@struct
class Indices:
    """Which transitions of a ring, of any shape."""

    time: Array  # int32, below length(ring)
    env: Array  # int32


def init(example: Any, capacity: int, num_envs: int, rollout_length: int) -> RingBuffer:
    """An empty ring of at most `capacity` transitions like `example`, which has no leading axes.

    It holds a whole number of rollouts, so that each is written in place as one slice. Any tree but
    a Transition is plain storage. Raises InvalidInput when it cannot hold one rollout.
    """
    time = capacity // (num_envs * rollout_length) * rollout_length
    if not time:
        raise InvalidInput(
            f"capacity {capacity} cannot hold one rollout of {rollout_length * num_envs} "
            f"(rollout_length {rollout_length} × num_envs {num_envs}); give a larger buffer"
        )

    def empty(*leading):
        return lambda x: jnp.zeros((*leading, *x.shape), x.dtype)

    storage, pictures = split_images(example)
    aside: Any = ()
    if jax.tree.leaves(pictures):
        places = num_envs * max(time // ROWS_PER_SLOT + 1, rollout_length)
        aside = BoundaryStore(
            jax.tree.map(empty(num_envs + places), pictures),
            jnp.zeros((time, num_envs), jnp.int32),
            jnp.full(places, -1, jnp.int32),
            jnp.int32(0),
            jnp.int32(0),
        )
    return RingBuffer(jax.tree.map(empty(time, num_envs), storage), jnp.int32(0), aside)


def split_images(tree: Any, axes: int = 0) -> tuple[Any, Any]:
    """A tree of leaves [*axes, ...] without the pictures of its next_observation, and these; None
    stands where one was."""
    if not isinstance(tree, Transition):
        return tree, ()
    is_picture = lambda x: x.dtype == jnp.uint8 and x.ndim - axes >= 2
    others = jax.tree.map(lambda x: None if is_picture(x) else x, tree.next_observation)
    return replace(tree, next_observation=others), jax.tree.map(
        lambda x: x if is_picture(x) else None, tree.next_observation
    )


def insert(ring: RingBuffer, rollout: Any) -> RingBuffer:
    """Add a rollout [rollout_length, env, ...] in place of the oldest rows.

    Raises InvalidInput when the ring does not hold a whole number of rollouts of this length.
    """
    storage, pictures = split_images(rollout, axes=2)
    rows, slot = jax.tree.leaves(rollout)[0].shape[0], ring.inserted % length(ring)
    if length(ring) % rows:
        raise InvalidInput(
            f"a rollout of {rows} steps does not divide the {length(ring)} rows of the ring; "
            "give `init` the length of the rollouts to come"
        )

    def write(old, new):
        return jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), slot, 0)

    aside = store_boundary(ring, rollout, pictures) if ring.boundary else ()
    return RingBuffer(jax.tree.map(write, ring.storage, storage), ring.inserted + rows, aside)


def store_boundary(ring: RingBuffer, rollout: Transition, pictures: Any) -> BoundaryStore:
    """Keep those of a rollout's successors, [rollout_length, env, ...], that will be no row's
    observation."""
    aside, envs, places = ring.boundary, num_envs(ring), ring.boundary.row.size
    cut = rollout.truncated & ~rollout.terminated
    place = (aside.count + jnp.cumsum(cut).reshape(cut.shape)) % places
    taken = jnp.where(cut, place, places)  # there is no such place: nothing is written
    time = ring.inserted + jnp.broadcast_to(jnp.arange(len(cut))[:, None], cut.shape)

    def keep(old, new):
        old = old.at[(envs + taken).ravel()].set(new.reshape(-1, *new.shape[2:]), mode="drop")
        return jax.lax.dynamic_update_slice_in_dim(old, new[-1], 0, 0)

    lost = jnp.where(cut, aside.row[place], -1).max()
    return BoundaryStore(
        jax.tree.map(keep, aside.images, pictures),
        jax.lax.dynamic_update_slice_in_dim(
            aside.slot, envs + place, ring.inserted % length(ring), 0
        ),
        aside.row.at[taken].set(time, mode="drop"),
        aside.count + cut.sum(),
        jnp.maximum(aside.oldest, lost + 1),
    )


def gather(ring: RingBuffer, rows: Indices) -> Any:
    """The transitions of these rows, in the shape of `rows`."""
    drawn = jax.tree.map(lambda x: take(x, rows), ring.storage)
    if not ring.boundary:
        return drawn
    newest, cut = is_newest(ring, rows), drawn.truncated & ~drawn.terminated
    place = jnp.where(newest, rows.env, take(ring.boundary.slot, rows))
    following = advance(ring, rows, 1)

    def successor(stored, kept, observation):
        if stored is not None:
            return stored
        there = take(observation, following)
        return jnp.where(
            (newest | cut).reshape(*cut.shape, *(1,) * (there.ndim - cut.ndim)), kept[place], there
        )

    return replace(
        drawn,
        next_observation=jax.tree.map(
            successor,
            drawn.next_observation,
            ring.boundary.images,
            ring.storage.observation,
            is_leaf=lambda x: x is None,
        ),
    )


def take(x: Array, rows: Indices) -> Array:
    """x[time, env, ...] at these rows."""
    return x.reshape(-1, *x.shape[2:])[rows.time * x.shape[1] + rows.env]


def window(ring: RingBuffer, rows: Indices, n: int) -> Any:
    """Each of the rows [batch] and those that follow it in the same copy, [n, batch].

    What follows the newest row is unknown: where a window runs past it, that row of a Transition is
    marked as truncated, and what comes after is of no account.
    """
    steps = advance(ring, rows, jnp.arange(n)[:, None])
    drawn = gather(ring, steps)
    if not isinstance(drawn, Transition):
        return drawn
    stops = is_newest(ring, steps) & (jnp.arange(n) < n - 1)[:, None] & ~drawn.terminated
    return replace(drawn, truncated=drawn.truncated | stops)


def n_step_transitions(
    ring: RingBuffer, rows: Indices, n: int, discount: float | Array
) -> tuple[Transition, Array]:
    """Each of the rows [batch] and at most n - 1 that follow, folded into one transition, and its
    bootstrap's discount.

    Both are [batch], and `estimators.returns.n_step` says what they hold. One that runs past the
    newest row bootstraps from there. Compiled, it gathers no picture but the first and the last of
    each window.
    """
    steps, drawn = advance(ring, rows, jnp.arange(n)[:, None]), window(ring, rows, n)
    reward, end, _, bootstrap = returns.fold_n_steps(
        drawn.reward, steps, drawn.terminated, drawn.done, discount
    )
    first, last = gather(ring, rows), gather(ring, end)
    return replace(
        first,
        reward=reward,
        next_observation=last.next_observation,
        terminated=last.terminated,
        truncated=last.truncated,
    ), bootstrap


def advance(ring: RingBuffer, rows: Indices, steps: int | Array) -> Indices:
    """The rows that come so many steps later in the same copies."""
    time = (rows.time + steps) % length(ring)
    return Indices(time, jnp.broadcast_to(rows.env, time.shape))


def is_newest(ring: RingBuffer, rows: Indices) -> Array:
    return rows.time == (ring.inserted - 1) % length(ring)


def oldest(ring: RingBuffer) -> Array:
    """int32: the first row of time that is held, of all ever inserted."""
    overwritten = jnp.maximum(ring.inserted - length(ring), 0)
    return jnp.maximum(overwritten, ring.boundary.oldest) if ring.boundary else overwritten


def num_valid(ring: RingBuffer) -> Array:
    """int32: the rows of time that can be drawn from, of each copy."""
    return ring.inserted - oldest(ring)


def length(ring: RingBuffer) -> int:
    """Rows of time there is room for."""
    return jax.tree.leaves(ring.storage)[0].shape[0]


def num_envs(ring: RingBuffer) -> int:
    """Copies of the environment it holds rows of."""
    return jax.tree.leaves(ring.storage)[0].shape[1]
