"""Prioritized replay: transitions are sampled by their TD error (Schaul et al., 2016).

    Pᵢ = pᵢ / Σₖ pₖ,   pᵢ = (|errorᵢ| + ε)ᵅ,   wᵢ = (N Pᵢ)⁻ᵝ / maxⱼ (N Pⱼ)⁻ᵝ, j in the batch

The priorities are the leaves of a sum tree, in which every node holds the sum of its 16 children.
An update recomputes the sums above a new priority, so rounding errors do not accumulate. Sampling
descends from the root. Both take log₁₆ of the capacity.
"""

import jax
import jax.numpy as jnp

from etude.data.replay import ring_buffer
from etude.data.replay.ring_buffer import Indices, RingBuffer
from etude.optim.schedules import linear_schedule
from etude.struct import replace, struct, traced
from etude.trees import batched_index
from etude.types import Array

CHILDREN = 16  # the fastest of 2 to 1,024 for sampling and updates of 32 on a CPU
LARGEST_BELOW_ONE = 1 - 2**-24  # the largest float32 below 1
PRIORITY_EPSILON = 1e-6  # ε: transitions without error keep a positive probability


@struct
class Priorities:
    """The sum tree of the priorities of a ring buffer's rows."""

    # float32 [node, child] for each level, from the priorities of [time * env] rows to the root
    tree: tuple[Array, ...]
    max_priority: Array  # the largest priority pᵢ so far: that of new transitions


@struct
class Prioritized:
    """Prioritized replay: transitions with large errors are sampled more often."""

    alpha: float = traced(0.5, at_least=0)
    """Exponent α of the priorities: 0 samples uniformly, 1 in proportion to the error (Schaul et
    al., 2016)."""
    beta: float = traced(0.4, at_least=0, at_most=1)
    """Initial exponent β of the importance weights; at 1 they correct the whole bias."""
    beta_steps: float = traced(100_000.0, above=0, infinite=True)
    """Environment steps, summed over all environment copies, over which β grows linearly to 1."""

    def init_priorities(self, buffer: RingBuffer) -> Priorities:
        """The priorities of a buffer that was never full before: 1 of each row that it holds."""
        num_envs = ring_buffer.num_envs(buffer)
        row = jnp.arange(ring_buffer.length(buffer) * num_envs) // num_envs
        sums, tree = (row < buffer.inserted).astype(jnp.float32), []
        while len(sums) > 1 or not tree:
            tree.append(jnp.pad(sums, (0, -len(sums) % CHILDREN)).reshape(-1, CHILDREN))
            sums = tree[-1].sum(-1)
        return Priorities(tuple(tree), jnp.ones(()))

    def insert(
        self, priorities: Priorities, old_buffer: RingBuffer, buffer: RingBuffer, rows: int
    ) -> Priorities:
        """The priorities after `rows` rows of time were inserted: the new ones have the largest."""
        tree = (
            invalidate(priorities.tree, old_buffer, buffer, rows)
            if buffer.boundary
            else priorities.tree
        )
        leaf = leaf_indices(buffer, old_buffer.inserted, rows)
        return replace(priorities, tree=set_priorities(tree, leaf, priorities.max_priority))

    def sample_indices(
        self, priorities: Priorities, buffer: RingBuffer, key: Array, batch_size: int, steps: Array
    ) -> tuple[Indices, Array]:
        """(indices [batch] in proportion to priority, their weights [batch]), after `steps` steps.

        The weights have the exponent β of that time.
        """
        beta = linear_schedule(steps, self.beta, 1.0, self.beta_steps)
        return sample_indices(priorities, buffer, key, batch_size, beta)

    def update_priorities(
        self, priorities: Priorities, buffer: RingBuffer, indices: Indices, td_error: Array
    ) -> Priorities:
        """Set the priorities (|td_error| + ε)ᵅ of a batch."""
        return update_priorities(priorities, buffer, indices, td_error, self.alpha)


def invalidate(
    tree: tuple[Array, ...], old_buffer: RingBuffer, buffer: RingBuffer, rows: int
) -> tuple[Array, ...]:
    """The tree with priority 0 for rows that an insert of `rows` dropped and did not overwrite."""
    # not 0 where the buffer counts its rows from a later one
    dropped = old_buffer.inserted + rows - buffer.inserted
    first = jnp.maximum(
        ring_buffer.oldest(old_buffer) - dropped, buffer.inserted - ring_buffer.length(buffer)
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
    priorities: Priorities, buffer: RingBuffer, key: Array, batch_size: int, beta: float | Array
) -> tuple[Indices, Array]:
    """(indices [batch] in proportion to priority, their importance weights [batch]).

    Sampling is stratified: one index from each of `batch_size` equal parts of the total priority.
    The weights correct for non-uniform sampling, fully for an exponent `beta` of 1, not at all for
    0; the largest weight of the batch is 1. The buffer must not be empty.
    """
    offset, *level_bits = jax.random.uniform(key, (1 + len(priorities.tree), batch_size))
    # in the sum of the node, as a fraction of it
    position = (jnp.arange(batch_size) + offset) / batch_size
    node = jnp.zeros(batch_size, jnp.int32)
    for level, bits in zip(reversed(priorities.tree), level_bits, strict=True):
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
    n = ring_buffer.num_envs(buffer)
    return Indices(node // n, node % n), (priority.min() / priority) ** beta


def update_priorities(
    priorities: Priorities,
    buffer: RingBuffer,
    indices: Indices,
    td_error: Array,
    alpha: float | Array,
) -> Priorities:
    """Set the priorities (|td_error| + ε)ᵅ of a batch, with the exponent `alpha`; 0 is uniform.

    A row that the buffer has dropped keeps priority 0. A row that was overwritten since it was
    sampled gets the new priority all the same.
    """
    leaf = indices.time * ring_buffer.num_envs(buffer) + indices.env
    priority = (jnp.abs(td_error) + PRIORITY_EPSILON) ** alpha
    is_valid = priorities.tree[0][leaf // CHILDREN, leaf % CHILDREN] > 0
    tree = set_priorities(priorities.tree, leaf, jnp.where(is_valid, priority, 0))
    return Priorities(tree, jnp.maximum(priorities.max_priority, priority.max()))
