"""SQIL pays 1 for the expert's steps and 0 for the agent's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filling import call, filled

import etude
from etude.algorithms.imitation.sqil import SQIL
from etude.algorithms.value.dqn import DQN
from etude.data.dataset import Dataset, make_dataset
from etude.data.replay import ring_buffer
from etude.data.replay.ring_buffer import Indices
from etude.data.replay.sequence import sequence_batch
from etude.data.transition import ReplayBatch, Transition
from etude.errors import InvalidInput
from etude.nn.history import History
from etude.spaces import Box, Discrete, EnvironmentSpec
from etude.struct import replace, validate

SPEC = EnvironmentSpec(Box((1,)), Discrete(2))


@pytest.mark.parametrize("weight", [jnp.float32(1), jnp.array([0.5, 1, 2])])
def test_a_batch_has_as_many_steps_of_the_expert_with_a_reward_of_1(weight):
    dataset = make_dataset(
        SPEC,
        observations=[[[10.0], [11.0], [12.0]]],
        actions=[[1, 1]],
        rewards=[[7.0, 7.0]],
        terminations=[[0, 1]],
        truncations=[[0, 0]],
    )
    flags = jnp.zeros(3, bool)
    own = Transition(
        jnp.ones((3, 1)),
        jnp.zeros(3, jnp.int32),
        jnp.full(3, jnp.nan),
        jnp.ones((3, 1)),
        flags,
        flags,
    )
    batch = SQIL().add_expert(
        ReplayBatch(own, jnp.full(3, 0.9), weight), dataset, jax.random.key(0)
    )
    np.testing.assert_array_equal(batch.transition.reward, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(batch.transition.action, [0, 0, 0, 1, 1, 1])
    expert = batch.transition.observation[3:, 0]
    assert set(np.asarray(expert)) <= {10.0, 11.0}
    ends = np.asarray(expert) == 11
    np.testing.assert_array_equal(batch.transition.next_observation[3:, 0], expert + 1)
    np.testing.assert_allclose(batch.discount, [0.9] * 3 + list(np.where(ends, 0, 0.99)))
    expected = [0.5, 1, 2, 1, 1, 1] if np.ndim(weight) else 1
    np.testing.assert_array_equal(batch.weight, expected)


@pytest.fixture(scope="module")
def sequences():
    """Of a recurrent DQN with n-step targets: (Q, its own two sequences of four rows, the batch
    with the expert's). What is observed in row i of the own steps is -i, in that of the expert's
    100 + i; the rows 4 and 9 of ten terminate."""
    agent = DQN(recurrent=etude.GRU(3), hidden=(4,), sequence_length=4, burn_in=1, n_step=2)
    row = jnp.arange(10.0)
    ends = (row == 4) | (row == 9)
    never, memory = jnp.zeros(10, bool), ((jnp.tile(row[:, None] / 10, (1, 3)),),)
    action = jnp.arange(10) % 2
    own, expert = (
        Transition(seen[:, None], action, jnp.full(10, 7.0), seen[:, None], ends, never, carries)
        for seen, carries in ((-row, memory), (100 + row, ()))
    )
    buffer = replace(ring_buffer.buffer_of(own), inserted=jnp.int32(10))
    dataset = Dataset(expert, jnp.int32([5, 5]), SPEC)
    owner = SQIL(agent=agent)
    q = filled(lambda: agent.make_q(jax.random.key(0), SPEC))

    @jax.jit
    def draw(key):
        indices = Indices(jnp.array([2, 7]), jnp.zeros(2, jnp.int32))
        weight = jnp.array([0.5, 1.0])
        batch = sequence_batch(buffer, indices, weight, 2, 0.99, length=4, burn_in=1)
        return batch, owner.add_expert(batch, dataset, key)

    return q, *draw(jax.random.key(3))


def test_sequences_of_the_expert_stand_beside_those_of_a_recurrent_agent(sequences):
    _, own, both = sequences
    reward, first = both.transition.reward, both.transition.observation
    np.testing.assert_array_equal(reward[:, :2], 0)
    np.testing.assert_array_equal(reward[:, 2:], 1)
    np.testing.assert_array_equal(both.weight[:, :2], own.weight)
    np.testing.assert_array_equal(both.discount[:, :2], own.discount)
    np.testing.assert_array_equal(first.carries[0][0][:2], own.transition.observation.carries[0][0])
    np.testing.assert_array_equal(first.carries[0][0][2:], 0)
    seen = np.asarray(first.observation[:, 2:, 0])  # the burn-in too
    valid = np.asarray(both.weight[:, 2:])
    np.testing.assert_array_equal(np.diff(seen, axis=0) % 10, 1)
    rows = (seen - 100).astype(int)
    np.testing.assert_array_equal(first.is_first[:, 2:], np.isin(rows, [0, 5]))
    np.testing.assert_array_equal(both.transition.action[:, 2:], rows[1:] % 2)
    np.testing.assert_array_equal(both.transition.terminated[:, 2:], np.isin(rows[1:], [4, 9]))
    expected = np.where(np.isin(rows[1:], [4, 9]), 0, 0.99)
    np.testing.assert_allclose(both.discount[:, 2:], expected)
    assert set(valid.ravel()) <= {0, 1} and valid.any()


def test_a_network_reads_the_sequences_of_both_as_it_reads_each(sequences):
    """With the successors: the agent's own n steps later, the expert's the next ones."""
    q, own, both = sequences
    rows = slice(1, None)
    steps = both.transition
    blank = jax.tree.map(jnp.zeros_like, own.transition.observation.carries)
    alone = History(
        steps.observation.observation[:, 2:], blank, steps.observation.is_first[:, 2:], burn_in=1
    )
    after = replace(alone, next_observation=steps.next_observation.next_observation[:, 2:])
    for joined, of_own, of_expert in (
        (steps.observation, own.transition.observation, alone),
        (steps.next_observation, own.transition.next_observation, after),
    ):
        expected = np.concatenate([call(q, of_own), call(q, of_expert)], 1)
        np.testing.assert_allclose(call(q, joined), expected, rtol=1e-5)
        assert expected.shape == (3, 4, 2) and len(set(expected[rows].ravel())) > 8


@pytest.mark.system
def test_a_memory_helps_where_an_observation_has_no_velocities(tmp_path):
    """Ten episodes of an expert who remembers; the return after 20,000 steps of play."""
    task, path = "etude/CartPoleWithoutVelocity-v1", tmp_path / "cart.npz"
    etude.record(task, expert="heuristic", episodes=10, out=path)
    found = []
    for recurrent, batch_size in ((etude.GRU(32), 128), (None, 64)):
        agent = DQN(recurrent=recurrent, batch_size=batch_size, discount=0.9, gradient_steps=2)
        run = etude.train(
            SQIL(agent=agent),
            task,
            dataset=path,
            steps=20_000,
            evaluation_episodes=20,
            out=tmp_path / str(bool(recurrent)),
            progress=False,
        )
        found.append(run.summary["evaluation"]["iqm"])
    assert found[0] > 2 * found[1]


def test_settings_of_the_agent_that_a_dataset_cannot_serve():
    with pytest.raises(InvalidInput, match="agent.hindsight is set"):
        validate(SQIL(agent=etude.DQN(hindsight=etude.Hindsight())))
