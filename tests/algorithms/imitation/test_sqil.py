"""SQIL pays 1 for the expert's steps and 0 for the agent's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etude
from etude.algorithms.imitation.sqil import SQIL
from etude.data.dataset import make_dataset
from etude.data.transition import ReplayBatch, Transition
from etude.errors import InvalidInput
from etude.spaces import Box, Discrete, EnvironmentSpec
from etude.struct import validate

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


def test_settings_of_the_agent_that_a_dataset_cannot_serve():
    with pytest.raises(InvalidInput, match="agent.recurrent is set"):
        validate(SQIL(agent=etude.SAC(recurrent=etude.GRU(4))))
    with pytest.raises(InvalidInput, match="agent.hindsight is set"):
        validate(SQIL(agent=etude.DQN(hindsight=etude.Hindsight())))
