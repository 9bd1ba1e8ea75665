"""Sequences that are whole, wherever the newest row lies in the ring, with the memory to start
from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from lives import Lives, example, number_of

from etude.data.replay import sequence as replay
from etude.errors import InvalidInput
from etude.struct import replace

insert = jax.jit(replay.insert)
sample = jax.jit(replay.sample, static_argnames=("batch_size", "length"))


def filled(inserts, **chances):
    """Rollouts of 2 steps of 3 copies in a ring of 10 rows, with a memory that is the number
    observed, and a half."""
    lives = Lives(inserts, 3, **chances)
    ring = replay.init(replace(example(lives.images), memory={"core": jnp.zeros(2)}), 30, 3, 2)
    for _ in range(inserts):
        rollout = lives.live(2)
        ring = insert(
            ring,
            replace(
                rollout, memory={"core": jnp.stack([rollout.action + 0.5, -rollout.action], -1)}
            ),
        )
    return ring, lives


@pytest.mark.slow
@pytest.mark.parametrize("inserts, length", [(2, 4), (8, 1), (9, 4), (12, 10)])
def test_sequences_are_consecutive_and_their_starts_uniform(inserts, length):
    """Over the ends of episodes, but never from the newest row to the oldest."""
    ring, lives = filled(inserts)
    drawn = sample(ring, jax.random.key(inserts), 6_000, length)
    numbers = number_of(drawn.observation["eye"])
    assert numbers.shape == (length, 6_000)
    oldest = lives.oldest(10, ring.boundary.row.size)
    # [time, env]
    lived = np.array([[row["observation"] for row in step] for step in lives.rows[oldest:]])
    whole = {
        tuple(lived[t : t + length, env]): (t, env)
        for t in range(len(lived) - length + 1)
        for env in range(3)
    }
    starts = [whole[tuple(column)] for column in numbers.T]  # a KeyError: not what was lived
    counts = np.bincount([t * 3 + env for t, env in starts], minlength=len(whole))
    assert len(counts) == len(whole) and scipy.stats.chisquare(counts).pvalue > 1e-4
    np.testing.assert_array_equal(drawn.memory["core"], np.stack([numbers + 0.5, -numbers], -1))


def test_value_may_be_asked_for_everywhere_in_a_sequence():
    """Every successor is the true one, also in the middle, and nothing is marked as cut off that
    was not."""
    ring, lives = filled(12, terminated=0.2, truncated=0.2)
    drawn = sample(ring, jax.random.key(0), 500, int(replay.num_valid(ring)))
    lived = {row["observation"]: row for step in lives.rows for row in step}
    told = [lived[number] for number in number_of(drawn.observation["eye"]).ravel()]
    after = number_of(drawn.next_observation["eye"]).ravel()
    assert all(
        row["terminated"] or row["after"] == number for row, number in zip(told, after, strict=True)
    )
    np.testing.assert_array_equal(drawn.truncated.ravel(), [row["truncated"] for row in told])
    assert drawn.truncated[:-1].any() and drawn.terminated[:-1].any()


def test_sequences_longer_than_the_ring_are_refused():
    ring, _ = filled(12)
    with pytest.raises(
        InvalidInput,
        match="a sequence of 11 steps is longer than the 10 that the replay buffer holds",
    ):
        replay.sample(ring, jax.random.key(0), 4, 11)
