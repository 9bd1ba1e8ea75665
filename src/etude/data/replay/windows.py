"""Windows of consecutive rows of a ring buffer, and the n-step transitions that they fold into."""

from typing import Any

import jax.numpy as jnp

from etude.data.replay.ring_buffer import Indices, RingBuffer, advance, gather, is_newest
from etude.data.transition import Transition
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
