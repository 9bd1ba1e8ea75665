"""Replay that draws transitions in proportion to their priority (Schaul et al., 2016).

    Pᵢ = pᵢ / Σₖ pₖ,   pᵢ = (|errorᵢ| + ε)ᵅ,   wᵢ = (N Pᵢ)⁻ᵝ / maxⱼ wⱼ

The priorities are the leaves of a tree in which every node holds the sum of its 16 children. A new priority means that
the sums above it are added up again, so no error gathers; a draw goes down from the root. Both take log₁₆ of the capacity.
"""
from typing import Any

import jax
import jax.numpy as jnp

from etude.replay import ring as rings
from etude.replay.ring import Ring, Rows
from etude.struct import replace, struct
from etude.trees import batched_index

Array = jax.Array
CHILDREN = 16                  # the quickest of 2 to 1,024 for draws and updates of 32 on a CPU
LARGEST = 1 - 2**-24           # the float32 before 1
OFFSET = 1e-6                  # ε: so that a transition without error is drawn again some day


@struct
class Replay:
    ring: Ring
    tree: tuple[Array, ...]    # float32 [node, child] a level: the priorities of the rows [time * env] first, the root last
    largest: Array             # the largest priority ever given, which new transitions get


def init(example: Any, capacity: int, num_envs: int, rollout_length: int) -> Replay:
    """An empty replay of at most `capacity` transitions like `example`; `ring.init` says more."""
    ring = rings.init(example, capacity, num_envs, rollout_length)
    nodes, tree = rings.length(ring) * num_envs, []
    while nodes > 1 or not tree:
        nodes = -(-nodes // CHILDREN)
        tree.append(jnp.zeros((nodes, CHILDREN)))
    return Replay(ring, tuple(tree), jnp.ones(()))


def insert(replay: Replay, rollout: Any) -> Replay:
    """Add a rollout [rollout_length, env, ...] in place of the oldest, with the largest priority seen so far."""
    ring = rings.insert(replay.ring, rollout)
    tree = forget(replay.tree, replay.ring, ring) if ring.aside else replay.tree
    rows = jax.tree.leaves(rollout)[0].shape[0]
    return Replay(ring, write(tree, rows_of_time(ring, replay.ring.inserted, rows), replay.largest), replay.largest)


def forget(tree: tuple[Array, ...], before: Ring, ring: Ring) -> tuple[Array, ...]:
    """Priority 0 for the rows that an insert made the ring forget and did not overwrite."""
    first = jnp.maximum(rings.oldest(before), ring.inserted - rings.length(ring))
    return jax.lax.fori_loop(first, rings.oldest(ring), lambda time, tree: write(tree, rows_of_time(ring, time, 1), 0.0), tree)


def rows_of_time(ring: Ring, time: Array, rows: int) -> Array:
    """The leaves of the tree that belong to `rows` rows of time, of all ever inserted, from `time` on: [rows * env]."""
    n = rings.copies(ring)
    return time % rings.length(ring) * n + jnp.arange(rows * n)


def write(tree: tuple[Array, ...], leaf: Array, priority: Array | float) -> tuple[Array, ...]:
    """The tree with these priorities at these leaves [n], and every sum above them added up again.

    Of several priorities for one leaf, one stays.
    """
    levels = []
    for level in tree:
        node, child = leaf // CHILDREN, leaf % CHILDREN
        levels.append(level.at[node, child].set(priority))
        leaf, priority = node, levels[-1][node].sum(-1)
    return tuple(levels)


def draw(replay: Replay, key: Array, batch_size: int, exponent: float | Array) -> tuple[Rows, Array]:
    """Rows [batch] in proportion to their priorities, one from each `batch`th part of their sum, and their weights [batch].

    The weights make up for the draws not being uniform: wholly when the exponent β is 1, not at all when 0; the largest of
    the batch is 1. There must be a row to draw.
    """
    refine, *finer = jax.random.uniform(key, (1 + len(replay.tree), batch_size))
    position = (jnp.arange(batch_size) + refine) / batch_size           # in the sum of the node, as a share of it
    node = jnp.zeros(batch_size, jnp.int32)
    for level, bits in zip(reversed(replay.tree), finer, strict=True):
        children, ends = level[node], jnp.cumsum(level[node], -1)       # [batch, child]
        ends = jnp.where(children > 0, ends, 0)                         # nothing for an empty child, however sums are rounded
        total = ends.max(-1)
        point = jnp.minimum(position, LARGEST) * total
        child = (ends > point[:, None]).argmax(-1)
        priority = batched_index(children, child)
        start = batched_index(ends, child) - priority
        # float32 tells 2²⁴ positions of the node apart and fewer of the child: new random bits below those
        position = jnp.clip((point - start + bits * 2**-24 * total) / priority, 0, LARGEST)
        node = node * CHILDREN + child
    n = rings.copies(replay.ring)
    return Rows(node // n, node % n), (priority.min() / priority)**exponent


def update(replay: Replay, rows: Rows, error: Array, exponent: float | Array) -> Replay:
    """The priorities (|error| + ε)ᵅ for the rows [batch] of a draw, with α the exponent: 0 draws uniformly.

    A row forgotten since stays forgotten; one overwritten since takes the priority for its own.
    """
    leaf = rows.time * rings.copies(replay.ring) + rows.env
    priority = (jnp.abs(error) + OFFSET)**exponent
    held = replay.tree[0][leaf // CHILDREN, leaf % CHILDREN] > 0
    tree = write(replay.tree, leaf, jnp.where(held, priority, 0))
    return replace(replay, tree=tree, largest=jnp.maximum(replay.largest, priority.max()))
