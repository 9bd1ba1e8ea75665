"""Counters at the largest int32: runs learn on after 2³¹ steps, schedules stay at their ends."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lives import Lives, example
from oracles import choices, experience, reals

from etude.algorithms.actor_critic.sac import SAC
from etude.algorithms.policy_gradient.reinforce import EpisodeMemory, Reinforce
from etude.algorithms.value.dqn import DQN
from etude.algorithms.value.naf import NAF
from etude.algorithms.value.q_learning import QLearning
from etude.algorithms.value.td3 import TD3
from etude.counters import MAX_COUNT, count_back, count_up, is_multiple
from etude.data.replay import ring_buffer
from etude.data.replay.prioritized import Prioritized
from etude.errors import InvalidInput
from etude.optim.schedules import linear_decay
from etude.spaces import Box, Discrete, EnvironmentSpec
from etude.struct import replace
from etude.training import iterations_of

KEY = jax.random.key(0)


def test_a_count_of_steps_stops():
    counts = np.int32([0, MAX_COUNT - 8, MAX_COUNT - 7, MAX_COUNT])
    np.testing.assert_array_equal(count_up(counts, 8), [8, MAX_COUNT, MAX_COUNT, MAX_COUNT])


@pytest.mark.parametrize("period", [1, 3, 500, 2**20, 2**28])
def test_a_cyclic_count_keeps_its_phase(period):
    counts = np.int32([0, period, 2**28, 2**29, 2**30, 2**31 - 2, MAX_COUNT])
    told = np.asarray(count_back(counts, period)).astype(np.int64)
    np.testing.assert_array_equal(told % period, counts % period)
    assert (told[counts >= 2**28] >= 2**28).all() and told.max() < 2**31 - 2**28
    np.testing.assert_array_equal(told[counts < 2**29], counts[counts < 2**29])
    np.testing.assert_array_equal(is_multiple(counts, period), counts % period == 0)


# The largest count that is a whole number of rollouts of the small buffers below.
FULL = MAX_COUNT - MAX_COUNT % 4
SIZES = {
    "hidden": (2,),
    "batch_size": 2,
    "capacity": 4,
    "rollout_length": 2,
    "warmup_steps": 3,
    "gradient_steps": 2,
}
BOX, CHOICES = Box((1,), low=-1.0, high=1.0), Discrete(2)
AGENTS = {
    "dqn": (DQN(**SIZES, target_interval=2), CHOICES),
    "naf": (NAF(**SIZES), BOX),
    "sac": (SAC(**SIZES), CHOICES),
    "td3": (TD3(**SIZES), BOX),
}


def late_state(agent, spec):
    """A state of weights from NumPy, after as many steps as its counters can count, less two."""
    shapes = jax.eval_shape(partial(agent.init, spec=spec), KEY)
    rng = np.random.default_rng(0)
    state = jax.tree.map(
        lambda x: (
            np.asarray(rng.normal(0, 0.3, x.shape) if x.dtype == np.float32 else 0, x.dtype)
            * np.ones(x.shape, x.dtype)
        ),
        shapes,
    )
    optimizers = {
        name: jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), getattr(shapes, name))
        for name in vars(shapes)
        if name.endswith("opt_state")
    }
    return replace(
        state,
        steps=np.int32(MAX_COUNT - 2),
        gradient_steps_taken=np.int32(MAX_COUNT - 2),
        replay=replace(state.replay, inserted=np.int32(FULL - 2)),
        **optimizers,
    )


def differ(one, other):
    return all((x != y).any() for x, y in zip(*map(jax.tree.leaves, (one, other)), strict=True))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.system] * (name in ("naf", "sac"))) for name in AGENTS],
)
def test_agents_with_replay_learn_on(name):
    agent, action = AGENTS[name]
    spec = EnvironmentSpec(Box((3,)), action, 1)
    draw = choices(2) if action is CHOICES else reals(1)
    update, before = jax.jit(agent.update), late_state(agent, spec)
    for seed in range(2):
        rollout = experience(seed, 2, 1, action=draw)
        after, metrics = update(before, rollout, KEY)
        assert metrics["updates"] == 2
        assert after.steps == MAX_COUNT and linear_decay(after.steps, 1e4) < 1e-30
        assert min(after.gradient_steps_taken, after.replay.inserted) > 2**28
        # the rollout is in its place, and the whole buffer can be drawn
        start = int(before.replay.inserted) % 4
        np.testing.assert_array_equal(
            after.replay.storage.reward[start : start + 2], rollout.reward
        )
        assert ring_buffer.num_valid(after.replay) == 4
        for part in ("q", "target_q") if hasattr(after, "q") else ("critics", "target_critics"):
            assert differ(getattr(before, part), getattr(after, part)), part
        before = after


def test_a_table_is_learned_on_greedily():
    spec = EnvironmentSpec(Discrete(3), Discrete(2), 1)
    algorithm = QLearning()
    state = replace(algorithm.init(KEY, spec), steps=jnp.int32(MAX_COUNT - 1))
    state = replace(state, q=jnp.float32([[0, 1], [0, 0], [0, 0]]))
    rollout = experience(0, 2, 1, action=choices(2))
    rollout = replace(
        rollout, observation=np.int32([[1], [2]]), next_observation=np.int32([[2], [1]])
    )
    for _ in range(2):
        before = state.q
        state, _ = algorithm.update(state, rollout, KEY)
        assert state.steps == MAX_COUNT and (before != state.q).any()
        assert float(algorithm.epsilon(state.steps)) == pytest.approx(algorithm.final_epsilon)


@pytest.mark.slow
def test_a_ring_of_pictures_and_its_priorities_are_those_of_a_short_run():
    """Rows that are counted from a later one, by a multiple of the length, are the same rows."""
    rows, num_envs = 2, 2
    lives = Lives(0, num_envs, 0.1, 0.4)
    rollouts = [lives.live(rows) for _ in range(12)]

    @jax.jit
    def step(buffer, priorities, rollout):
        inserted = ring_buffer.insert(buffer, rollout)
        priorities = Prioritized().insert(priorities, buffer, inserted, rows)
        indices = ring_buffer.Indices(*jnp.mgrid[:6, :num_envs])
        rows_of_all = ring_buffer.gather(inserted, indices)
        return inserted, priorities, (rows_of_all, ring_buffer.num_valid(inserted))

    def contents(turns):
        """What is held after each rollout; rows have `turns` more turns of the ring before the
        seventh."""
        buffer = ring_buffer.init(example(), 12, num_envs, rows)
        priorities, told = Prioritized().init_priorities(buffer), []
        for i, rollout in enumerate(rollouts):
            if i == 6:
                boundary = buffer.boundary
                boundary = replace(
                    boundary, row=boundary.row + 6 * turns, oldest=boundary.oldest + 6 * turns
                )
                buffer = replace(buffer, inserted=buffer.inserted + 6 * turns, boundary=boundary)
            buffer, priorities, rows_of_all = step(buffer, priorities, rollout)
            told.append((rows_of_all, priorities.tree))
        return told[6:], buffer.inserted

    (short, count), (long, late_count) = contents(0), contents((MAX_COUNT - 14) // 6)
    jax.tree.map(np.testing.assert_array_equal, short, long)
    assert count == 24 and 2**28 < late_count < MAX_COUNT - 2**28


@pytest.mark.slow
def test_episodes_of_reinforce_are_those_of_a_short_run():
    algorithm = Reinforce(hidden=(2,), capacity=8, rollout_length=2, batch_steps=4)
    spec = EnvironmentSpec(Box((3,)), Discrete(2), 2)
    state = jax.eval_shape(partial(algorithm.init, spec=spec), KEY)
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state)
    turns = MAX_COUNT // 8 * 8 - 16
    late = replace(
        state,
        buffer=replace(state.buffer, inserted=jnp.int32(16 + turns)),
        start_row=state.start_row + 10 + turns,
        end_row=state.end_row + 12 + turns,
    )
    early = replace(
        state,
        buffer=replace(state.buffer, inserted=jnp.int32(16)),
        start_row=state.start_row + 10,
        end_row=state.end_row + 12,
    )
    memory = EpisodeMemory((), jnp.zeros((2, 2)))
    rollout = replace(experience(0, 2, 2, action=choices(2)), memory=memory)
    early, late = (jax.jit(algorithm.store)(x, rollout) for x in (early, late))
    for name in ("start_row", "end_row"):
        np.testing.assert_array_equal(
            early.buffer.inserted - getattr(early, name), late.buffer.inserted - getattr(late, name)
        )
    assert 2**28 < late.buffer.inserted < MAX_COUNT - 2**28


def test_budgets_that_cannot_be_counted_are_refused():
    assert iterations_of(DQN(), 1, 4 * MAX_COUNT) == MAX_COUNT
    with pytest.raises(InvalidInput, match=r"more than 2,147,483,647 iterations of 4 \(rollout"):
        iterations_of(DQN(), 1, 4 * (MAX_COUNT + 1))
