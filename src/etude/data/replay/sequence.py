"""Replay of sequences for recurrent networks (Hausknecht & Stone, 2015; Kapturowski et al., 2019).

A sequence is consecutive rows of one environment. It begins with the carries that the policy stored
at the row before it, the stored state, or with zeros where none were stored, as in a dataset. Its
first rows, the burn-in, only bring the carries up to date: nothing is learned from them. Unlike
those of R2D2, sequences begin at any row, cross the ends of episodes, where carries are reset, and
their length includes the burn-in.
"""

import jax
import jax.numpy as jnp

from etude.data.replay import ring_buffer
from etude.data.replay.ring_buffer import Indices, RingBuffer, advance, is_newest, take
from etude.data.replay.windows import window
from etude.data.transition import ReplayBatch
from etude.errors import InvalidInput
from etude.estimators import returns
from etude.nn.history import History
from etude.struct import replace
from etude.types import Array

MAX_ERROR_WEIGHT = 0.9  # η, of the largest absolute TD error in the priority of a sequence


def sequence_batch(
    buffer: RingBuffer,
    indices: Indices,
    weight: Array,
    n: int,
    discount: float | Array,
    *,
    length: int,
    burn_in: int,
) -> ReplayBatch:
    """The sequences of `length` rows that begin after the rows at `indices` [batch].

    Transitions are those of the rows after the burn-in, [time, batch]; their observations are
    Histories, which hold the burn-in too. Each row folds at most n steps, as in
    `estimators.returns.fold_n_steps`, and bootstraps from the end of its sequence where that comes
    sooner. Rows past the newest of the buffer have weight 0.
    """
    # row 0 of the window is the one before the sequence: its memory is the stored state
    with_row_before = window(buffer, indices, 1 + length)
    carries = jax.tree.map(lambda x: take(x, indices), buffer.storage.memory)
    is_first = with_row_before.done[:-1]
    rows = jax.tree.map(lambda x: x[1:], replace(with_row_before, memory=()))
    # a row is past the newest where one of the rows before it is the newest
    newest = is_newest(buffer, advance(buffer, indices, jnp.arange(length)[:, None]))
    is_valid = jnp.cumsum(newest, 0)[burn_in:] == 0
    trained = jax.tree.map(lambda x: x[burn_in:], rows)
    if n == 1:
        reward, terminated, truncated = trained.reward, trained.terminated, trained.truncated
        bootstrap_row, bootstrap_discount = None, jnp.full_like(reward, discount)
    else:
        time = jnp.arange(length - burn_in)
        ahead = jnp.minimum(time + jnp.arange(n)[:, None], time[-1])  # [n, time]
        done = trained.done.at[-1].set(True)  # no fold goes on past the end of the sequence
        row = jnp.broadcast_to(ahead[..., None], (*ahead.shape, done.shape[1]))
        reward, (bootstrap_row, truncated), terminated, bootstrap_discount = returns.fold_n_steps(
            trained.reward[ahead],
            (row, trained.truncated[ahead]),
            trained.terminated[ahead],
            done[ahead],
            discount,
        )
    history = History(rows.observation, carries, is_first, burn_in=burn_in)
    transition = replace(
        trained,
        observation=history,
        reward=reward,
        next_observation=replace(
            history, next_observation=rows.next_observation, bootstrap_row=bootstrap_row
        ),
        terminated=terminated,
        truncated=truncated,
    )
    return ReplayBatch(transition, bootstrap_discount * ~terminated, weight * is_valid)


def sequence_error(abs_td_error: Array, weight: Array) -> Array:
    """The errors [batch] by which prioritized replay draws sequences, from those of their rows.

    η max |δ| + (1 - η) mean |δ| over the rows [time, batch] of positive weight, with η = 0.9
    (Kapturowski et al., 2019, §2.3). A sequence without such rows, which are yet to come, has the
    largest error of the batch, so that it is drawn again.
    """
    is_valid = weight > 0
    error = jnp.where(is_valid, abs_td_error, 0)
    mean = error.sum(0) / jnp.maximum(is_valid.sum(0), 1)
    mixed = MAX_ERROR_WEIGHT * error.max(0) + (1 - MAX_ERROR_WEIGHT) * mean
    return jnp.where(is_valid.any(0), mixed, mixed.max())


def check_length(buffer: RingBuffer, length: int) -> None:
    """Raise InvalidInput unless the buffer can hold a sequence and the row before it."""
    capacity = ring_buffer.length(buffer)
    if length >= capacity:
        raise InvalidInput(
            f"sequence_length {length} and the row before it are longer than the {capacity} rows "
            "that the replay buffer holds of each environment; give shorter sequences, a larger "
            "capacity or fewer environments"
        )
