"""Goals of hindsight against lists of everything lived: of the same episode, in the right share and
spread, with the rewards and ends that they bring."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from lives import Lives, picture

from etude.data.replay import hindsight, ring_buffer, windows
from etude.data.replay.hindsight import Hindsight
from etude.data.replay.ring_buffer import Indices
from etude.data.transition import Transition
from etude.struct import replace

RING, ENVS = 24, 2
insert = jax.jit(ring_buffer.insert)
offsets = jax.jit(hindsight.episode_offsets)


def goal(number):
    """A goal [2] that tells the number of an observation."""
    return np.stack([number, -number], -1).astype(np.float32)


def observed(number, pictures):
    """What is achieved is the number observed; what is desired stays -1."""
    number = np.asarray(number)
    told = {"achieved_goal": goal(number), "desired_goal": goal(np.full_like(number, -1))}
    return told | ({"eye": picture(number)} if pictures else {})


def filled(inserts, seed=0, pictures=False, **shares):
    """A ring of rollouts of 4 steps, and the lives they are from."""
    lives, steps = Lives(seed, ENVS, images=False, **shares), np.zeros(ENVS, np.int32)
    flag, seen = np.zeros((), bool), observed(0, pictures)
    example = Transition(seen, np.int32(0), np.float32(0), seen, flag, flag, np.int32(0))
    ring = ring_buffer.init(example, RING * ENVS, ENVS, 4)
    for _ in range(inserts):
        lived, memory = lives.live(4), []
        for done in np.asarray(lived.done):
            steps += 1
            memory.append(steps.copy())
            steps[done] = 0
        before, after = (observed(x, pictures) for x in (lived.observation, lived.next_observation))
        ring = insert(
            ring,
            replace(lived, observation=before, next_observation=after, memory=np.stack(memory)),
        )
    return ring, lives


def held(lives):
    """The rows in the ring since the first insert, [(time, env)], and their indices."""
    count = len(lives.rows)
    where = [(t, env) for t in range(max(0, count - RING), count) for env in range(ENVS)]
    time, env = np.int32(where).T
    return where, Indices(time % RING, env)


def is_done(row):
    return row["terminated"] or row["truncated"]


def episode(lives, t, env):
    """The rows of the episode of row t that the ring holds."""
    first, last, oldest = t, t, max(0, len(lives.rows) - RING)
    while first > oldest and not is_done(lives.rows[first - 1][env]):
        first -= 1
    while last + 1 < len(lives.rows) and not is_done(lives.rows[last][env]):
        last += 1
    return first, last


@pytest.mark.parametrize("shares", [(0.1, 0.1), (0.0, 0.0), (0.5, 0.5)], ids=str)
@pytest.mark.parametrize("inserts", [1, 6, 11])
def test_the_rows_of_an_episode_are_found(inserts, shares):
    """Short ones, running ones, and such as are overwritten in part, wherever the ring begins."""
    ring, lives = filled(inserts, terminated=shares[0], truncated=shares[1])
    where, indices = held(lives)
    padded = jax.tree.map(lambda x: np.resize(x, RING * ENVS), indices)
    first, last = (np.asarray(x)[: len(where)] for x in offsets(ring, padded))
    expected = [np.subtract(episode(lives, t, env), t) for t, env in where]
    np.testing.assert_array_equal(np.stack([first, last], -1), expected)


def close(achieved, desired, terminated):
    """The reward and the termination of a goal: at most 6 numbers from what is achieved."""
    distance = jnp.abs(achieved - desired)[..., 0]
    return -(distance > 6).astype(jnp.float32), distance <= 2


@partial(jax.jit, static_argnames=("her", "n"))
def relabeled(ring, indices, key, her, share, n, weight=1.0):
    her = replace(her, share=share)
    batch = windows.n_step_batch(ring, indices, jnp.float32(weight), n, 0.9)
    return her.relabel(close, ring, indices, batch, key, n, 0.9)


def number_of(goals):
    goals = np.asarray(goals)
    np.testing.assert_array_equal(goals[..., 1], -goals[..., 0])
    return goals[..., 0].astype(int)


@pytest.mark.parametrize("strategy", ["future", "final", "episode"])
def test_goals_are_spread_evenly_over_the_episode_as_the_strategy_says(strategy):
    """Of a row in the middle of an episode, drawn thousands of times."""
    ring, lives = filled(5, seed=3, terminated=0.0, truncated=0.0)
    t, env, n = 9, 1, 6_000
    indices = Indices(np.full(n, t, np.int32), np.full(n, env, np.int32))
    batch = relabeled(ring, indices, jax.random.key(0), Hindsight(strategy), 1.0, 1)
    goals = number_of(batch.transition.observation["desired_goal"])
    first, last = episode(lives, t, env)
    assert (first, last) == (0, 19)
    rows = {"future": range(t, last + 1), "final": [last], "episode": range(first, last + 1)}
    possible = [lives.rows[row][env]["after"] for row in rows[strategy]]
    counts = [(goals == number).sum() for number in possible]
    assert sum(counts) == n
    if len(counts) > 1:
        assert scipy.stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("n", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_rewards_and_ends_are_those_of_the_new_goals(n):
    """Of every row, by loops: n steps that end where the new goal ends them or the episode was
    over. A row that had terminated and no longer does bootstraps."""
    ring, lives = filled(11, seed=1, terminated=0.15, truncated=0.1)
    where, indices = held(lives)
    drawn = jax.device_get(
        relabeled(ring, indices, jax.random.key(1), Hindsight("episode"), 0.5, n)
    )
    told = drawn.transition
    goals = number_of(told.observation["desired_goal"])
    np.testing.assert_array_equal(goals, number_of(told.next_observation["desired_goal"]))
    assert 0.3 < (goals != -1).mean() < 0.7
    revived = 0
    for i, (t, env) in enumerate(where):
        first, last = episode(lives, t, env)
        is_new, reward = goals[i] != -1, 0.0
        if is_new:
            assert goals[i] in [lives.rows[row][env]["after"] for row in range(first, last + 1)]
        for k in range(n):
            row = lives.rows[t + k][env]
            distance = abs(row["after"] - goals[i])
            terminated = distance <= 2 if is_new else row["terminated"]
            reward += 0.9**k * (-float(distance > 6) if is_new else row["reward"])
            if terminated or k == n - 1 or t + k == last:
                break
        revived += row["terminated"] and not terminated
        assert told.reward[i] == pytest.approx(reward, rel=1e-5)
        assert told.terminated[i] == terminated
        was_cut = row["truncated"] or (row["terminated"] and not terminated)
        assert told.truncated[i] == was_cut or t + k == len(lives.rows) - 1
        assert drawn.discount[i] == pytest.approx(0.9 ** (k + 1) * (not terminated), rel=1e-5)
        assert number_of(told.next_observation["achieved_goal"][i]) == row["after"]
        assert number_of(told.observation["achieved_goal"][i]) == lives.rows[t][env]["observation"]
    assert revived > 2


def test_a_share_of_none_changes_nothing_and_weights_stay():
    ring, lives = filled(6, seed=2)
    _, indices = held(lives)
    drawn = relabeled(ring, indices, jax.random.key(1), Hindsight(), 0.0, 2, 0.25)
    plain = windows.n_step_batch(ring, indices, jnp.float32(0.25), 2, 0.9)
    same = partial(np.testing.assert_allclose, rtol=1e-6)
    for name in ("observation", "next_observation", "reward", "terminated", "truncated"):
        jax.tree.map(same, getattr(drawn.transition, name), getattr(plain.transition, name))
    jax.tree.map(same, (drawn.discount, drawn.weight), (plain.discount, plain.weight))


def test_a_terminated_row_of_pictures_keeps_its_goal():
    """Its next picture is not stored, so nothing could be bootstrapped from it."""
    ring, lives = filled(6, seed=2, pictures=True, terminated=0.3, truncated=0.0)
    where, indices = held(lives)
    goals = number_of(
        relabeled(ring, indices, jax.random.key(1), Hindsight(), 1.0, 1).transition.observation[
            "desired_goal"
        ]
    )
    ended = np.array([lives.rows[t][env]["terminated"] for t, env in where])
    assert ended.any() and ((goals == -1) == ended).all()
