"""Sequences of replay against lists of everything lived, wherever the newest row lies in the ring,
and the carries with which they begin."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lives import Lives, example, number_of

from etude.data.replay import ring_buffer, sequence
from etude.data.replay.ring_buffer import Indices
from etude.errors import InvalidInput
from etude.struct import replace

RING = 10  # rows, of 3 environments
insert = jax.jit(ring_buffer.insert)
sequences = jax.jit(sequence.sequence_batch, static_argnames=("n", "length", "burn_in"))


def filled(inserts, images=True):
    """Rollouts of 2 steps; the carry after a step is the number observed, and a half."""
    lives = Lives(inserts, 3, images=images)
    carries = ((jnp.zeros(2),),)
    ring = ring_buffer.init(replace(example(images), memory=carries), 3 * RING, 3, 2)
    for _ in range(inserts):
        rollout = lives.live(2)
        carry = jnp.stack([rollout.action + 0.5, -rollout.action], -1)
        ring = insert(ring, replace(rollout, memory=((carry,),)))
    return ring, lives


def every_row(lives):
    """(the numbers of all rows in the ring since the first insert, their indices)."""
    newest = len(lives.rows) - 1
    time = np.arange(max(0, newest + 1 - RING), newest + 1)
    where = [(t, env) for t in time for env in range(3)]
    rows, envs = np.int32(where).T
    return where, Indices(rows % RING, envs)


def n_step(rows, t, last, env, n, discount):
    """From row t at most n steps, not over the end of an episode nor past row `last`."""
    total = 0.0
    for k in range(n):
        row = rows[t + k][env]
        total += discount**k * row["reward"]
        if row["terminated"] or row["truncated"] or k == n - 1 or t + k == last:
            return total, row["after"], discount ** (k + 1) * (not row["terminated"])


@pytest.mark.parametrize(
    "inserts, length, burn_in, n",
    [(9, 4, 1, 1), (4, 5, 2, 3), pytest.param(12, 7, 0, 2, marks=pytest.mark.slow)],
)
def test_sequences_are_what_was_lived(inserts, length, burn_in, n):
    """From every row, over the ends of episodes, up to the newest row: rows after it count
    nothing."""
    ring, lives = filled(inserts, images=False)
    where, indices = every_row(lives)
    weight = np.linspace(0.5, 1, len(where), dtype=np.float32)
    batch = jax.device_get(sequences(ring, indices, weight, n, 0.9, length=length, burn_in=burn_in))
    transition, history = batch.transition, batch.transition.observation
    assert history.burn_in == burn_in and batch.weight.shape == (length - burn_in, len(where))
    newest = len(lives.rows) - 1
    np.testing.assert_array_equal(
        history.carries[0][0],
        [
            [lives.rows[t][env]["observation"] + 0.5, -lives.rows[t][env]["observation"]]
            for t, env in where
        ],
    )
    counted = 0
    for i, (t, env) in enumerate(where):
        for j in range(min(length, newest - t)):  # row j of the sequence
            row, before = lives.rows[t + 1 + j][env], lives.rows[t + j][env]
            assert history.observation[j, i] == row["observation"]
            assert history.is_first[j, i] == (before["terminated"] or before["truncated"])
        for j in range(length - burn_in):  # after the burn-in
            now = t + 1 + burn_in + j
            assert batch.weight[j, i] == (weight[i] if now <= newest else 0)
            if now > newest:
                continue
            counted += 1
            reward, after, discount = n_step(lives.rows, now, min(t + length, newest), env, n, 0.9)
            assert transition.action[j, i] == lives.rows[now][env]["observation"]
            assert transition.reward[j, i] == pytest.approx(reward, rel=1e-5)
            assert batch.discount[j, i] == pytest.approx(discount, rel=1e-5)
            following = transition.next_observation
            read = j if following.bootstrap_row is None else following.bootstrap_row[j, i]
            assert following.next_observation[burn_in + read, i] == after
    assert counted > 20


@pytest.mark.slow
def test_sequences_of_pictures_have_the_true_next_ones():
    ring, lives = filled(9)
    where, indices = every_row(lives)
    where, indices = where[-15:], jax.tree.map(lambda x: x[-15:], indices)
    batch = sequences(ring, indices, np.float32(1), 1, 0.9, length=3, burn_in=0)
    after = number_of(batch.transition.next_observation.next_observation["eye"])
    for (i, (t, env)), j in ((pair, j) for pair in enumerate(where) for j in range(3)):
        if batch.weight[j, i] and not lives.rows[t + 1 + j][env]["terminated"]:
            assert after[j, i] == lives.rows[t + 1 + j][env]["after"]


def test_the_error_of_a_sequence_is_nine_tenths_its_largest_and_a_tenth_its_mean():
    """Of the rows that count; the largest of the batch where none counts yet."""
    error = np.float32([[1.0, 2.0, 9.0], [3.0, 50.0, 9.0], [2.0, 60.0, 9.0]])
    weight = np.float32([[0.5, 1.0, 0.0], [0.5, 0.0, 0.0], [0.5, 0.0, 0.0]])
    expected = [0.9 * 3 + 0.1 * 2, 2.0, 0.9 * 3 + 0.1 * 2]
    np.testing.assert_allclose(jax.jit(sequence.sequence_error)(error, weight), expected, rtol=1e-6)


def test_sequences_longer_than_the_ring_are_refused():
    ring = jax.eval_shape(partial(ring_buffer.init, example(False), 30, 3, 2))
    sequence.check_length(ring, 9)
    with pytest.raises(
        InvalidInput, match="sequence_length 10 and the row before it are longer than the 10 rows"
    ):
        sequence.check_length(ring, 10)
