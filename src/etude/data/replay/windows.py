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
    return fold_window(buffer, indices, window(buffer, indices, n), discount)


def n_step_batch(
    buffer: RingBuffer, indices: Indices, weight: Array, n: int, discount: float | Array
) -> ReplayBatch:
    """The batch of the n-step transitions from `indices` [batch], of this weight in the loss."""
    if n == 1:
        transition, bootstrap_discount = gather(buffer, indices), discount
    else:
        transition, bootstrap_discount = n_step_transitions(buffer, indices, n, discount)
    return ReplayBatch(transition, jnp.where(transition.terminated, 0, bootstrap_discount), weight)


def fold_window(
    buffer: RingBuffer, indices: Indices, transitions: Transition, discount: float | Array
) -> tuple[Transition, Array]:
    """What `n_step_transitions` returns, of the window [n, batch] at `indices`.

    Its rewards and ends of episodes may differ from those in the buffer.
    """
    window_indices = advance(buffer, indices, jnp.arange(len(transitions.reward))[:, None])
    reward, last_indices, terminated, bootstrap_discount = returns.fold_n_steps(
        transitions.reward, window_indices, transitions.terminated, transitions.done, discount
    )
    first, last = gather(buffer, indices), gather(buffer, last_indices)
    return replace(
        first,
        reward=reward,
        next_observation=last.next_observation,
        terminated=terminated,
        truncated=last.truncated,
    ), bootstrap_discount
