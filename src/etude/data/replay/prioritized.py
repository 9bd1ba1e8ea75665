"""Prioritized replay: transitions are sampled by their TD error (Schaul et al., 2016).

    Pᵢ = pᵢ / Σₖ pₖ,   pᵢ = (|errorᵢ| + ε)ᵅ,   wᵢ = (N Pᵢ)⁻ᵝ / maxⱼ wⱼ

The priorities are the leaves of a sum tree, in which every node holds the sum of its 16 children.
An update recomputes the sums above a new priority, so rounding errors do not accumulate. Sampling
descends from the root. Both take log₁₆ of the capacity.
"""

from typing import Any

import jax
import jax.numpy as jnp

from etude.data.replay import ring_buffer
from etude.data.replay.ring_buffer import Indices, RingBuffer
from etude.struct import replace, struct
from etude.trees import batched_index
from etude.types import Array

CHILDREN = 16  # the fastest of 2 to 1,024 for sampling and updates of 32 on a CPU
LARGEST_BELOW_ONE = 1 - 2**-24  # the largest float32 below 1
PRIORITY_EPSILON = 1e-6  # ε: transitions without error keep a positive probability


@struct
class ReplayBuffer:
    """A ring buffer and the sum tree of its priorities."""

    buffer: RingBuffer
    # float32 [node, child] for each level, from the priorities of [time * env] rows to the root
    tree: tuple[Array, ...]
    max_priority: Array  # the largest priority so far: that of new transitions


def init(example: Any, capacity: int, num_envs: int, rollout_length: int) -> ReplayBuffer:
    """An empty buffer of at most `capacity` transitions like `example`; see `ring_buffer.init`."""
    buffer = ring_buffer.init(example, capacity, num_envs, rollout_length)
    nodes, tree = ring_buffer.length(buffer) * num_envs, []
    while nodes > 1 or not tree:
        nodes = -(-nodes // CHILDREN)
        tree.append(jnp.zeros((nodes, CHILDREN)))
    return ReplayBuffer(buffer, tuple(tree), jnp.ones(()))


def insert(replay: ReplayBuffer, rollout: Any) -> ReplayBuffer:
    """Write a rollout [rollout_length, env, ...] over the oldest rows, at the top priority."""
    buffer = ring_buffer.insert(replay.buffer, rollout)
    tree = invalidate(replay.tree, replay.buffer, buffer) if buffer.boundary else replay.tree
    rows = jax.tree.leaves(rollout)[0].shape[0]
    return ReplayBuffer(
        buffer,
        set_priorities(
            tree, leaf_indices(buffer, replay.buffer.inserted, rows), replay.max_priority
        ),
        replay.max_priority,
    )


def invalidate(
    tree: tuple[Array, ...], old_buffer: RingBuffer, buffer: RingBuffer
) -> tuple[Array, ...]:
    """The tree with priority 0 for rows that an insert dropped without overwriting them."""
    first = jnp.maximum(
        ring_buffer.oldest(old_buffer), buffer.inserted - ring_buffer.length(buffer)
    )
    return jax.lax.fori_loop(
        first,
        ring_buffer.oldest(buffer),
        lambda time, tree: set_priorities(tree, leaf_indices(buffer, time, 1), 0.0),
        tree,
    )


def leaf_indices(buffer: RingBuffer, time: Array, rows: int) -> Array:
    """The tree's leaves [rows * env] of `rows` rows of time, from `time` since the first insert."""
    n = ring_buffer.num_envs(buffer)
    return time % ring_buffer.length(buffer) * n + jnp.arange(rows * n)


def set_priorities(
    tree: tuple[Array, ...], leaf: Array, priority: Array | float
) -> tuple[Array, ...]:
    """The tree with these priorities of the leaves `leaf` [n], and the sums above them recomputed.

    Of several priorities for one leaf, one is stored.
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
    """(indices [batch] in proportion to priority, their importance weights [batch]).

    Sampling is stratified: one index from each of `batch_size` equal parts of the total priority.
    The weights correct for non-uniform sampling, fully for an exponent β of 1, not at all for 0;
    the largest weight of the batch is 1. The buffer must not be empty.
    """
    offset, *level_bits = jax.random.uniform(key, (1 + len(replay.tree), batch_size))
    # in the sum of the node, as a fraction of it
    position = (jnp.arange(batch_size) + offset) / batch_size
    node = jnp.zeros(batch_size, jnp.int32)
    for level, bits in zip(reversed(replay.tree), level_bits, strict=True):
        children, ends = level[node], jnp.cumsum(level[node], -1)  # [batch, child]
        # a child of priority 0 is never chosen, however the sums are rounded
        ends = jnp.where(children > 0, ends, 0)
        total = ends.max(-1)
        point = jnp.minimum(position, LARGEST_BELOW_ONE) * total
        child = (ends > point[:, None]).argmax(-1)
        priority = batched_index(children, child)
        start = batched_index(ends, child) - priority
        # float32 resolves 2²⁴ positions of the node and fewer of the child: the bits below are
        # filled with new random ones
        position = jnp.clip(
            (point - start + bits * 2**-24 * total) / priority, 0, LARGEST_BELOW_ONE
        )
        node = node * CHILDREN + child
    n = ring_buffer.num_envs(replay.buffer)
    return Indices(node // n, node % n), (priority.min() / priority) ** exponent


def update_priorities(
    replay: ReplayBuffer, indices: Indices, td_error: Array, exponent: float | Array
) -> ReplayBuffer:
    """Set the priorities (|td_error| + ε)ᵅ of a batch, with the exponent α; α = 0 is uniform.

    A row that the buffer has dropped keeps priority 0. A row that was overwritten since it was
    sampled gets the new priority all the same.
    """
    leaf = indices.time * ring_buffer.num_envs(replay.buffer) + indices.env
    priority = (jnp.abs(td_error) + PRIORITY_EPSILON) ** exponent
    is_valid = replay.tree[0][leaf // CHILDREN, leaf % CHILDREN] > 0
    tree = set_priorities(replay.tree, leaf, jnp.where(is_valid, priority, 0))
    return replace(replay, tree=tree, max_priority=jnp.maximum(replay.max_priority, priority.max()))
