"""Hindsight experience replay, HER: a goal that was achieved later takes the place of the desired
one (Andrychowicz et al., 2017).

Observations are dicts with the entries "achieved_goal" and "desired_goal". The memory of each row
in the buffer is its step in the episode, counted from 1, by which the rows of an episode are found.
"""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from etude.data.replay import ring_buffer
from etude.data.replay.ring_buffer import Indices, RingBuffer, advance, take
from etude.data.replay.windows import fold_window, window
from etude.data.transition import ReplayBatch
from etude.spaces import GoalRewardFunction
from etude.struct import replace, static, struct, traced
from etude.trees import where_done
from etude.types import Array

# each round of the search for the end of an episode divides its range by this: a few wide gathers
# are faster than many narrow ones
SEARCH_BASE = 16


@struct
class Hindsight:
    """Hindsight experience replay as a setting of an agent."""

    strategy: Literal["future", "final", "episode"] = static("future")
    """Which transition achieved the new goal: this or a later one of its episode (future), the last
    (final), or any (episode), of those that the buffer holds."""
    share: float = traced(0.8, at_least=0, at_most=1)
    """Probability that a sampled transition gets a new goal; 0.8 is k = 4 of Andrychowicz et al.
    (2017)."""

    def relabel(
        self,
        goal_reward: GoalRewardFunction,
        buffer: RingBuffer,
        indices: Indices,
        batch: ReplayBatch,
        key: Array,
        n_step: int,
        discount: float | Array,
    ) -> ReplayBatch:
        """The batch of the transitions at `indices` [batch], a share of them with new goals.

        Of `batch` its weights stay; the n steps are folded anew, with the rewards and terminations
        of one new goal, drawn for the first of them. A row that ended its episode with the old goal
        and would not have with the new one is truncated: it bootstraps.
        """
        key_goal, key_share = jax.random.split(key)
        rows = window(buffer, indices, n_step)  # [n, batch]
        goal = self.sample_goal(buffer, indices, key_goal)
        is_relabeled = jax.random.uniform(key_share, indices.time.shape) < self.share  # [batch]
        if buffer.boundary:  # a terminated row has no true next image to bootstrap from
            is_relabeled &= ~batch.transition.terminated

        def with_goal(observation: dict[str, Any]) -> dict[str, Any]:
            old_goal = observation["desired_goal"]
            new_goal = jax.tree.map(partial(where_done, is_relabeled), goal, old_goal)
            return {**observation, "desired_goal": new_goal}

        achieved = rows.next_observation["achieved_goal"]
        desired = with_goal(rows.next_observation)["desired_goal"]
        reward, terminated = goal_reward(achieved, desired, rows.terminated)
        terminated = jnp.where(is_relabeled, terminated, rows.terminated)
        rows = replace(
            rows,
            reward=jnp.where(is_relabeled, reward, rows.reward),
            terminated=terminated,
            truncated=rows.truncated | rows.terminated & ~terminated,
        )
        transition, bootstrap_discount = fold_window(buffer, indices, rows, discount)
        transition = replace(
            transition,
            observation=with_goal(transition.observation),
            next_observation=with_goal(transition.next_observation),
        )
        return replace(
            batch, transition=transition, discount=bootstrap_discount * ~transition.terminated
        )

    def sample_goal(self, buffer: RingBuffer, indices: Indices, key: Array) -> Any:
        """Goals [batch, *goal] that were achieved in the episodes of the rows at `indices`."""
        first, last = episode_offsets(buffer, indices)
        match self.strategy:
            case "future":
                first = jnp.zeros_like(first)
            case "final":
                first = last
        count = last - first + 1
        drawn = jax.random.uniform(key, count.shape) * count
        offset = first + jnp.minimum(drawn.astype(jnp.int32), count - 1)
        rows = advance(buffer, indices, offset)
        achieved = buffer.storage.next_observation["achieved_goal"]
        return jax.tree.map(lambda x: take(x, rows), achieved)


def episode_offsets(buffer: RingBuffer, indices: Indices) -> tuple[Array, Array]:
    """The offsets from each row [batch] to the first and the last row of its episode, int32.

    They are those of rows in the buffer: rows of the episode may have been overwritten, and a
    running episode ends with the newest row.
    """
    length = ring_buffer.length(buffer)
    newest = (buffer.inserted - 1) % length
    rows_after = (newest - indices.time) % length
    rows_before = ring_buffer.num_valid(buffer) - 1 - rows_after
    step = take(buffer.storage.memory, indices)  # in the episode, from 1
    first = -jnp.minimum(step - 1, rows_before)
    # the row at an offset is of the same episode exactly if its step is `step` + offset: up to the
    # last such offset all rows are, and after it none is
    stride, last = 1, jnp.zeros_like(first)
    while stride * SEARCH_BASE < length:
        stride *= SEARCH_BASE
    while stride:
        offsets = last[:, None] + stride * jnp.arange(1, SEARCH_BASE)  # [batch, offset]
        rows = Indices((indices.time[:, None] + offsets) % length, indices.env[:, None])
        is_same = take(buffer.storage.memory, rows) == step[:, None] + offsets
        last += stride * (is_same & (offsets <= rows_after[:, None])).sum(-1, dtype=jnp.int32)
        stride //= SEARCH_BASE
    return first, last
