"""Windows of consecutive rows of a ring buffer, and the n-step transitions that they fold into."""

from typing import Any

import jax.numpy as jnp

from etude.data.replay.ring_buffer import Indices, RingBuffer, advance, gather, is_newest
from etude.data.transition import ReplayBatch, Transition
from etude.estimators import returns
from etude.struct import replace
from etude.types import Array


def window(buffer: RingBuffer, indices: Indices, n: int) -> Any:
    """The transitions [n, batch] at `indices` [batch] and the n - 1 that follow each of them.

    They are of the same environment. Where a window of Transitions extends past the newest row,
    that row is marked as truncated unless it terminated. The rows after it are the oldest ones of
    the buffer, or empty: they are to be ignored.
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
    the newest row bootstraps from there. A compiled program gathers no images but those of the
    first and last row of each window.
    """
    return fold_window(buffer, indices, window(buffer, indices, n), discount)


def n_step_batch(
    buffer: RingBuffer, indices: Indices, weight: Array, n: int, discount: float | Array
) -> ReplayBatch:
    """The n-step transitions from `indices` [batch] as a batch, with these weights in the loss.

    The weights are [batch], or one number for all of them.
    """
    if n == 1:
        transition, bootstrap_discount = gather(buffer, indices), discount
    else:
        transition, bootstrap_discount = n_step_transitions(buffer, indices, n, discount)
    return ReplayBatch(transition, jnp.where(transition.terminated, 0, bootstrap_discount), weight)


def fold_window(
    buffer: RingBuffer, indices: Indices, rows: Transition, discount: float | Array
) -> tuple[Transition, Array]:
    """What `n_step_transitions` returns, of the rows [n, batch] of the windows at `indices`.

    The rewards and the ends of episodes in `rows` may differ from those in the buffer.
    """
    row_indices = advance(buffer, indices, jnp.arange(len(rows.reward))[:, None])
    reward, (last_indices, truncated), terminated, bootstrap_discount = returns.fold_n_steps(
        rows.reward, (row_indices, rows.truncated), rows.terminated, rows.done, discount
    )
    first, last = gather(buffer, indices), gather(buffer, last_indices)
    return replace(
        first,
        reward=reward,
        next_observation=last.next_observation,
        terminated=terminated,
        truncated=truncated,
    ), bootstrap_discount
