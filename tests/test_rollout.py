"""Following a policy and judging it, on copies whose episodes have known lengths and rewards."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.probes import Counter, TimeLimited
from etude.environments.protocol import StepResult
from etude.environments.wrappers.time_limit import TimeLimit
from etude.rollout import (
    BoundPolicy,
    RolloutState,
    evaluate,
    init_rollout_state,
    play_episodes,
    rollout,
)
from etude.spaces import Box, Discrete, EnvironmentSpec
from etude.struct import struct


@struct
class Clock:
    episode: jax.Array  # int32 [env]: episodes ended
    time: jax.Array  # int32 [env]: steps taken in this one


class Scripted:
    """Copy i plays episodes of i + 1 steps; each step of its episode k pays 10 k + i. Every other
    episode is truncated.

    The observation is [copy, episode, time].
    """

    functional = True
    replayer = None

    def __init__(self, num_envs):
        self.spec = EnvironmentSpec(Box((3,)), Discrete(2), num_envs)

    def reset(self, key):
        zeros = jnp.zeros(self.spec.num_envs, jnp.int32)
        return Clock(zeros, zeros), self.observe(Clock(zeros, zeros))

    def step(self, state, action, key):
        number = jnp.arange(self.spec.num_envs)
        reward = (10.0 * state.episode + number) * action  # a wrong action pays nothing
        moved = Clock(state.episode, state.time + 1)
        done = moved.time == number + 1
        after = Clock(state.episode + done, jnp.where(done, 0, moved.time))
        truncated = done & (state.episode % 2 == 1)
        return (
            after,
            self.observe(after),
            StepResult(self.observe(moved), reward, done & ~truncated, truncated),
        )

    def observe(self, state):
        return jnp.stack([jnp.arange(self.spec.num_envs), state.episode, state.time], -1).astype(
            jnp.float32
        )

    def close(self):
        """There is nothing to let go of."""


@BoundPolicy
def always_one(observation, memory, key):
    return jnp.ones(observation.shape[0], jnp.int32), memory


def play(environment, policy, length, key=0):
    """(last stage, transitions, episodes) of one rollout from the start, in NumPy."""

    def run(key):
        key_reset, key_play = jax.random.split(key)
        return rollout(
            environment,
            policy,
            init_rollout_state(environment, policy, key_reset),
            key_play,
            length,
        )

    return jax.tree.map(np.asarray, jax.jit(run)(jax.random.key(key)))


def test_evaluation_counts_the_first_episodes_of_every_copy():
    """As many of the copy whose episodes last four steps as of the copy whose last one."""
    returns, lengths = jax.jit(lambda: evaluate(Scripted(4), always_one, jax.random.key(0), 12))()
    assert returns.shape == lengths.shape == (12,)
    np.testing.assert_array_equal(np.reshape(lengths, (4, 3)), [[i + 1] * 3 for i in range(4)])
    np.testing.assert_array_equal(
        np.reshape(returns, (4, 3)), [[(10 * k + i) * (i + 1) for k in range(3)] for i in range(4)]
    )


def test_evaluation_of_one_episode_a_copy_and_of_whole_episodes_only():
    _, lengths = jax.jit(
        lambda: evaluate(JaxEnvs(Counter(7), 5), always_one, jax.random.key(0), 5)
    )()
    np.testing.assert_array_equal(lengths, [7] * 5)
    returns, lengths = jax.jit(
        lambda: evaluate(JaxEnvs(TimeLimit(TimeLimited(), 3), 2), always_one, jax.random.key(0), 4)
    )()
    np.testing.assert_array_equal(returns, [3] * 4)  # a truncated episode is a whole one
    assert lengths.dtype == jnp.int32


def test_evaluation_gives_the_policy_its_memory():
    """It pays only on every other step of an episode, counted in a memory that starts over with
    it."""

    policy = BoundPolicy(
        lambda observation, memory, key: ((memory % 2).astype(jnp.int32), memory + 1),
        lambda key: jnp.zeros(4),
    )
    returns, _ = jax.jit(lambda: evaluate(Scripted(4), policy, jax.random.key(0), 8))()
    np.testing.assert_array_equal(
        np.reshape(returns, (4, 2)),
        [[(10 * k + i) * ((i + 1) // 2) for k in range(2)] for i in range(4)],
    )


def test_evaluation_measures_the_end_of_each_episode():
    """The true last observation, and the memory after the last action; not of an episode beyond
    those that count."""
    policy = BoundPolicy(
        lambda observation, memory, key: (jnp.ones(4, jnp.int32), memory + 1),
        lambda key: jnp.zeros(4, jnp.int32),
    )
    measure = lambda memory, observation: {
        "actions": memory,
        "episode": observation[:, 1],
        "time": observation[:, 2],
    }
    _, lengths, measures = jax.jit(
        lambda: play_episodes(Scripted(4), policy, jax.random.key(0), 8, measure)
    )()
    length, episode = np.repeat(np.arange(1, 5), 2), np.tile([0, 1], 4)
    np.testing.assert_array_equal(lengths, length)
    np.testing.assert_array_equal(measures["actions"], length)
    np.testing.assert_array_equal(measures["time"], length)
    np.testing.assert_array_equal(measures["episode"], episode)


@pytest.mark.slow
def test_evaluation_follows_from_its_key():
    @BoundPolicy
    def policy(observation, memory, key):
        return jax.random.randint(key, (observation.shape[0],), 0, 2), memory

    play = jax.jit(partial(evaluate, Scripted(3), policy, episodes=30))
    first, again, other = (play(jax.random.key(seed))[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert len(set(first[-10:].tolist())) > 3  # and steps have keys of their own


def test_transitions_are_what_was_lived():
    copies, length = 3, 11
    stage, experience, _ = play(Scripted(copies), always_one, length)
    for i in range(copies):
        for t in range(length):
            episode, time = divmod(t, i + 1)
            done = time == i
            np.testing.assert_array_equal(experience.observation[t, i], [i, episode, time])
            np.testing.assert_array_equal(experience.next_observation[t, i], [i, episode, time + 1])
            assert experience.reward[t, i] == 10 * episode + i and experience.action[t, i] == 1
            assert experience.terminated[t, i] == (done and episode % 2 == 0)
            assert experience.truncated[t, i] == (done and episode % 2 == 1)
            assert experience.done[t, i] == done
        np.testing.assert_array_equal(stage.observation[i], [i, *divmod(length, i + 1)])


def test_episodes_sum_what_ended():
    copies, length = 3, 11
    stage, experience, episodes = play(Scripted(copies), always_one, length)
    count = total_return = total_length = 0
    for i in range(copies):
        so_far = steps = 0
        for t in range(length):
            so_far, steps = so_far + experience.reward[t, i], steps + 1
            if experience.done[t, i]:
                count, total_return, total_length = (
                    count + 1,
                    total_return + so_far,
                    total_length + steps,
                )
                so_far = steps = 0
        assert (stage.episode_return[i], stage.episode_length[i]) == (so_far, steps)
    assert (episodes.count, episodes.total_return, episodes.total_length) == (
        count,
        total_return,
        total_length,
    )


def test_a_rollout_goes_on_where_the_last_one_stopped():
    environment = Scripted(3)
    _, whole, sums = play(environment, always_one, 11)
    stage, parts, counts = init_rollout_state(environment, always_one, jax.random.key(0)), [], []
    for length in (4, 1, 6):
        stage, part, ended = jax.jit(
            lambda stage, length=length: rollout(
                environment, always_one, stage, jax.random.key(7), length
            )
        )(stage)
        parts.append(part)
        counts.append(ended)
    jax.tree.map(
        np.testing.assert_array_equal, jax.tree.map(lambda *x: np.concatenate(x), *parts), whole
    )
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda *x: sum(x), *counts), sums)


def test_an_episode_begins_with_the_policys_initial_memory():
    """A transition keeps what the policy noted; every shape of the initial memory is for the next
    episode."""

    def act(observation, memory, key):
        noted = {
            "steps": memory["steps"] + 1,
            "plan": memory["plan"] + memory["steps"][:, None] + 1,
        }
        return jnp.ones(observation.shape[0], jnp.int32), noted

    def initial_memory(key):
        return {"steps": jnp.zeros(3, jnp.int32), "plan": jnp.full((3, 2), 7.0)}

    stage, experience, _ = play(Scripted(3), BoundPolicy(act, initial_memory), 11)
    time = experience.observation[..., 2].astype(int)
    np.testing.assert_array_equal(experience.memory["steps"], time + 1)
    np.testing.assert_array_equal(
        experience.memory["plan"][..., 1], 7 + (time + 1) * (time + 2) / 2
    )
    np.testing.assert_array_equal(stage.memory["steps"], stage.observation[:, 2])
    assert experience.memory["steps"].dtype == np.int32


def test_what_is_drawn_for_an_episode_is_its_own():
    """A goal drawn at the start of each episode of each copy stays until its end, in evaluation
    too."""

    def act(observation, memory, key):
        return jnp.ones(observation.shape[0], jnp.int32), memory

    policy = BoundPolicy(act, lambda key: jax.random.uniform(key, (3,)))
    _, experience, _ = play(Scripted(3), policy, 12)
    goals = {}
    for goal, (copy, episode, _) in zip(
        experience.memory.ravel(), experience.observation.reshape(-1, 3).astype(int), strict=True
    ):
        goals.setdefault((copy, episode), set()).add(float(goal))
    assert len(goals) == 12 + 6 + 4
    assert all(len(of_episode) == 1 for of_episode in goals.values())
    assert len(set.union(*goals.values())) == len(goals)

    judged = BoundPolicy(
        lambda observation, memory, key: (jnp.round(1000 * memory).astype(jnp.int32), memory),
        policy.initial_memory,
    )
    returns, lengths = jax.jit(lambda: evaluate(Scripted(3), judged, jax.random.key(0), 6))()
    copies, episodes = np.repeat(np.arange(3), 2), np.tile([0, 1], 3)
    paid = (10 * episodes + copies) * np.asarray(lengths)
    chosen = np.asarray(returns)[paid > 0] / paid[paid > 0]
    assert len(set(chosen)) == len(chosen)
    np.testing.assert_allclose(chosen, np.round(chosen), atol=1e-3)


@pytest.mark.parametrize("length", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_the_policy_and_every_step_have_keys_of_their_own(length):
    @BoundPolicy
    def policy(observation, memory, key):
        return jax.random.randint(key, (64,), 0, 1000), memory

    action = play(JaxEnvs(Counter(), 64), policy, length)[1].action
    assert len(np.unique(action)) > 50 * length / 1.2
    assert (action != play(JaxEnvs(Counter(), 64), policy, length, key=1)[1].action).any()


def test_the_start_of_play():
    policy = BoundPolicy(always_one.act, lambda key: np.ones((2, 3), np.float32))
    stage = init_rollout_state(Scripted(2), policy, jax.random.key(0))
    assert isinstance(stage, RolloutState)
    assert not stage.episode_return.any() and not stage.episode_length.any()
    np.testing.assert_array_equal(stage.memory, np.ones((2, 3)))
    assert stage.episode_length.dtype == jnp.int32 and stage.episode_return.dtype == jnp.float32
