"""Replay that draws transitions in proportion to their priority (Schaul et al., 2016).

    Pᵢ = pᵢ / Σₖ pₖ,   pᵢ = (|errorᵢ| + ε)ᵅ,   wᵢ = (N Pᵢ)⁻ᵝ / maxⱼ wⱼ

The priorities are the leaves of a tree in which every node holds the sum of its 16 children. A new
priority means that the sums above it are added up again, so no error gathers; a draw goes down from
the root. Both take log₁₆ of the capacity.
"""

from typing import Any

import jax
import jax.numpy as jnp

from etude.data.replay import ring_buffer
from etude.data.replay.ring_buffer import Indices, RingBuffer
from etude.struct import replace, struct
from etude.trees import batched_index
from etude.types import Array

CHILDREN = 16  # the quickest of 2 to 1,024 for draws and updates of 32 on a CPU
LARGEST_BELOW_ONE = 1 - 2**-24  # the float32 before 1
PRIORITY_EPSILON = 1e-6  # ε: so that a transition without error is drawn again some day


@struct
class ReplayBuffer:
    buffer: RingBuffer
    # float32 [node, child] a level: the priorities of the rows [time * env] first, the root last
    tree: tuple[Array, ...]
    max_priority: Array  # the largest priority ever given, which new transitions get


def init(example: Any, capacity: int, num_envs: int, rollout_length: int) -> ReplayBuffer:
    """An empty replay of at most `capacity` transitions like `example`; `ring.init` says more."""
    ring = ring_buffer.init(example, capacity, num_envs, rollout_length)
    nodes, tree = ring_buffer.length(ring) * num_envs, []
    while nodes > 1 or not tree:
        nodes = -(-nodes // CHILDREN)
        tree.append(jnp.zeros((nodes, CHILDREN)))
    return ReplayBuffer(ring, tuple(tree), jnp.ones(()))


def insert(replay: ReplayBuffer, rollout: Any) -> ReplayBuffer:
    """Add a rollout [rollout_length, env, ...] in place of the oldest, with the largest priority
    seen so far."""
    ring = ring_buffer.insert(replay.buffer, rollout)
    tree = invalidate(replay.tree, replay.buffer, ring) if ring.boundary else replay.tree
    rows = jax.tree.leaves(rollout)[0].shape[0]
    return ReplayBuffer(
        ring,
        set_priorities(
            tree, tree_leaves_of(ring, replay.buffer.inserted, rows), replay.max_priority
        ),
        replay.max_priority,
    )


def invalidate(tree: tuple[Array, ...], before: RingBuffer, ring: RingBuffer) -> tuple[Array, ...]:
    """Priority 0 for the rows that an insert made the ring forget and did not overwrite."""
    first = jnp.maximum(ring_buffer.oldest(before), ring.inserted - ring_buffer.length(ring))
    return jax.lax.fori_loop(
        first,
        ring_buffer.oldest(ring),
        lambda time, tree: set_priorities(tree, tree_leaves_of(ring, time, 1), 0.0),
        tree,
    )


def tree_leaves_of(ring: RingBuffer, time: Array, rows: int) -> Array:
    """The leaves of the tree that belong to `rows` rows of time, of all ever inserted, from `time`
    on: [rows * env]."""
    n = ring_buffer.num_envs(ring)
    return time % ring_buffer.length(ring) * n + jnp.arange(rows * n)


def set_priorities(
    tree: tuple[Array, ...], leaf: Array, priority: Array | float
) -> tuple[Array, ...]:
    """The tree with these priorities at these leaves [n], and every sum above them added up again.

    Of several priorities for one leaf, one stays.
    """
    levels = []
    for level in tree:
        node, child = leaf // CHILDREN, leaf % CHILDREN
        levels.append(level.at[node, child].set(priority))
        leaf, priority = node, levels[-1][node].sum(-1)
    return tuple(levels)


def sample_indices(
    replay: ReplayBuffer, key: Array, batch_size: int, exponent: float | Array
) -> tuple[Indices, Array]:
    """Rows [batch] in proportion to their priorities, one from each `batch`th part of their sum,
    and their weights [batch].

    The weights make up for the draws not being uniform: wholly when the exponent β is 1, not at all
    when 0; the largest of the batch is 1. There must be a row to draw.
    """
    refine, *finer = jax.random.uniform(key, (1 + len(replay.tree), batch_size))
    # in the sum of the node, as a share of it
    position = (jnp.arange(batch_size) + refine) / batch_size
    node = jnp.zeros(batch_size, jnp.int32)
    for level, bits in zip(reversed(replay.tree), finer, strict=True):
        children, ends = level[node], jnp.cumsum(level[node], -1)  # [batch, child]
        # nothing for an empty child, however sums are rounded
        ends = jnp.where(children > 0, ends, 0)
        total = ends.max(-1)
        point = jnp.minimum(position, LARGEST_BELOW_ONE) * total
        child = (ends > point[:, None]).argmax(-1)
        priority = batched_index(children, child)
        start = batched_index(ends, child) - priority
        # float32 tells 2²⁴ positions of the node apart and fewer of the child: new random bits
        # below those
        position = jnp.clip(
            (point - start + bits * 2**-24 * total) / priority, 0, LARGEST_BELOW_ONE
        )
        node = node * CHILDREN + child
    n = ring_buffer.num_envs(replay.buffer)
    return Indices(node // n, node % n), (priority.min() / priority) ** exponent


def update_priorities(
    replay: ReplayBuffer, rows: Indices, error: Array, exponent: float | Array
) -> ReplayBuffer:
    """The priorities (|error| + ε)ᵅ for the rows [batch] of a draw, with α the exponent: 0 draws
    uniformly.

    A row forgotten since stays forgotten; one overwritten since takes the priority for its own.
    """
    leaf = rows.time * ring_buffer.num_envs(replay.buffer) + rows.env
    priority = (jnp.abs(error) + PRIORITY_EPSILON) ** exponent
    held = replay.tree[0][leaf // CHILDREN, leaf % CHILDREN] > 0
    tree = set_priorities(replay.tree, leaf, jnp.where(held, priority, 0))
    return replace(replay, tree=tree, max_priority=jnp.maximum(replay.max_priority, priority.max()))
