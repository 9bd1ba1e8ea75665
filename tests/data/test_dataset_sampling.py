"""Every step of the chosen episodes is drawn as often as any other, and sequences are whole
episodes, one after another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.data import dataset_sampling
from etude.data.dataset import make_dataset
from etude.spaces import Box, Discrete, EnvironmentSpec

LENGTHS = np.array([3, 1, 5, 2])
STARTS = np.array([0, 3, 4, 9])
AMONG = jnp.array([True, False, True, True])
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def dataset():
    """Observations count the steps of all episodes."""
    steps = LENGTHS.sum()
    ends = np.isin(np.arange(steps), LENGTHS.cumsum() - 1)
    return make_dataset(
        EnvironmentSpec(Box((1,)), Discrete(2), 1),
        observations=np.arange(steps + len(LENGTHS), dtype=np.float32)[:, None],
        actions=np.zeros(steps, np.int64),
        rewards=np.zeros(steps),
        terminations=ends,
        truncations=np.zeros(steps, bool),
        episode_lengths=LENGTHS,
    )


def rows_among():
    return np.flatnonzero(np.repeat(np.asarray(AMONG), LENGTHS))


def test_steps_are_drawn_alike_from_the_chosen_episodes(dataset):
    draw = jax.jit(dataset_sampling.random_steps, static_argnums=3)
    rows = np.asarray(draw(KEY, dataset, AMONG, 30_000))
    drawn, counts = np.unique(rows, return_counts=True)
    np.testing.assert_array_equal(drawn, rows_among())
    np.testing.assert_allclose(counts / len(rows), 1 / len(drawn), rtol=0.1)


def test_episodes_begin_at_their_first_step_and_are_drawn_alike(dataset):
    draw = jax.jit(dataset_sampling.random_starts, static_argnums=3)
    starts = np.asarray(draw(KEY, dataset, AMONG, (100, 90)))
    drawn, counts = np.unique(starts, return_counts=True)
    np.testing.assert_array_equal(drawn, STARTS[np.asarray(AMONG)])
    np.testing.assert_allclose(counts / starts.size, 1 / 3, rtol=0.05)


def test_sequences_are_whole_episodes_one_after_another(dataset):
    init = jax.jit(dataset_sampling.init_readers, static_argnums=3)
    readers = init(KEY, dataset, AMONG, 50)
    assert set(np.asarray(readers.row)) == set(rows_among())  # at all times of episodes
    read = jax.jit(
        lambda key, readers: dataset_sampling.read_steps(key, dataset, AMONG, readers, 7)
    )
    rows, is_first = [], []
    for key in jax.random.split(KEY, 60):
        row, first, readers = read(key, readers)
        rows.append(row)
        is_first.append(first)
    rows, is_first = np.concatenate(rows), np.concatenate(is_first)
    assert is_first[0].all()
    is_last = np.isin(rows, LENGTHS.cumsum() - 1)
    np.testing.assert_array_equal(is_first[1:], is_last[:-1])
    assert set(rows[1:][is_first[1:]]) == set(STARTS[np.asarray(AMONG)])
    np.testing.assert_array_equal(rows[1:][~is_first[1:]], rows[:-1][~is_first[1:]] + 1)
    # each episode as often as any other, so each step too
    drawn, counts = np.unique(rows, return_counts=True)
    np.testing.assert_array_equal(drawn, rows_among())
    np.testing.assert_allclose(counts / rows.size, 1 / len(drawn), rtol=0.1)


@pytest.mark.parametrize(
    ("episodes", "share", "count"),
    [(10, 0.3, 3), (10, 0.0, 0), (3, 0.01, 1), (2, 0.9, 1), (1, 0.5, 0)],
)
def test_a_share_of_the_episodes_is_held_out_and_never_all(episodes, share, count):
    held_out = np.asarray(dataset_sampling.hold_out(KEY, episodes, share))
    assert held_out.sum() == count and held_out.shape == (episodes,)
