"""Replay of stretches for recurrent networks (Hausknecht & Stone, 2015; Kapturowski et al., 2019).

A stretch is consecutive rows of one environment; it may cross the ends of episodes. The row before
it gives the carries with which it begins, as the policy had them then (the stored state); its first
rows, the burn-in, only bring them up to date.
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

MAX_ERROR_SHARE = 0.9  # η: of the largest TD error of a stretch in its priority


def stretch_batch(
    buffer: RingBuffer,
    indices: Indices,
    weight: Array,
    n: int,
    discount: float | Array,
    *,
    length: int,
    burn_in: int,
) -> ReplayBatch:
    """The rows after the burn-in of the stretches that follow `indices` [batch]: [time, batch].

    Observations are a History. Each row folds at most n steps of the stretch, as in
    `estimators.returns.fold_n_steps`; where the stretch ends sooner it bootstraps from there. A row
    past the newest of the buffer has weight 0.
    """
    # the row at `indices` is not of the stretch: it has the carries before it
    rows = window(buffer, indices, 1 + length)
    carries = jax.tree.map(lambda x: take(x, indices), buffer.storage.memory)
    is_first, rows = rows.done[:-1], jax.tree.map(lambda x: x[1:], replace(rows, memory=()))
    newest = is_newest(buffer, advance(buffer, indices, jnp.arange(length)[:, None]))
    is_valid = jnp.cumsum(newest, 0)[burn_in:] == 0
    trained = jax.tree.map(lambda x: x[burn_in:], rows)
    if n == 1:
        reward, next_row, terminated = trained.reward, None, trained.terminated
        bootstrap_discount = jnp.full_like(reward, discount)
    else:
        time = jnp.arange(length - burn_in)
        later = jnp.minimum(time + jnp.arange(n)[:, None], time[-1])  # [n, time]
        done = trained.done.at[-1].set(True)
        reward, next_row, terminated, bootstrap_discount = returns.fold_n_steps(
            trained.reward[later],
            jnp.broadcast_to(later[..., None], trained.reward[later].shape),
            trained.terminated[later],
            done[later],
            discount,
        )
    history = History(rows.observation, carries, is_first, burn_in=burn_in)
    transition = replace(
        trained,
        observation=history,
        reward=reward,
        next_observation=replace(
            history, next_observation=rows.next_observation, next_row=next_row
        ),
        terminated=terminated,
    )
    return ReplayBatch(transition, bootstrap_discount * ~terminated, weight * is_valid)


def stretch_error(td_error: Array, weight: Array) -> Array:
    """The errors [batch] of stretches by which prioritized replay draws, from those of their rows.

    η max |δ| + (1 - η) mean |δ| over the rows [time, batch] of positive weight, with η = 0.9
    (Kapturowski et al., 2019, §2.3). A stretch without such rows, which are yet to come, has the
    largest error of the batch, so that it is drawn again.
    """
    is_valid = weight > 0
    error = jnp.where(is_valid, td_error, 0)
    mean = error.sum(0) / jnp.maximum(is_valid.sum(0), 1)
    mixed = MAX_ERROR_SHARE * error.max(0) + (1 - MAX_ERROR_SHARE) * mean
    return jnp.where(is_valid.any(0), mixed, mixed.max())


def check_length(buffer: RingBuffer, length: int) -> None:
    """Raise InvalidInput for stretches that are longer than the buffer."""
    held = ring_buffer.length(buffer)
    if length >= held:
        raise InvalidInput(
            f"sequence_length {length} and the row before it are longer than the {held} rows that "
            "the replay buffer holds of each environment; give shorter sequences, a larger "
            "capacity or fewer environments"
        )
