"""A task that cannot be done without a memory: with one PPO, DQN and SAC do it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.algorithms.actor_critic.sac import SAC
from etude.algorithms.trust_region.ppo import PPO
from etude.algorithms.value.dqn import DQN
from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.protocol import StepResult
from etude.nn.recurrent import GRU
from etude.rollout import bind_policy, evaluate
from etude.spaces import Box, Discrete
from etude.struct import replace, struct
from etude.training import pure_train

STEPS, SEEDS, ENVS = 4, 2, 16


@struct
class Shown:
    """One of two symbols, shown at the first step only and asked for at the last: reward 1 for the
    right action, else -1.

    The observation is [the symbol as -1 or 1, whether it is asked for].
    """

    observation_space = Box((2,), low=-1.0, high=1.0)
    action_space = Discrete(2)

    def reset(self, key):
        symbol = jax.random.rademacher(key).astype(jnp.float32)
        return (symbol, jnp.int32(0)), jnp.stack([symbol, 0.0])

    def step(self, state, action, key):
        symbol, time = state
        asked = time == STEPS - 1
        reward = jnp.where(asked, symbol * (2.0 * action - 1), 0)
        return (symbol, time + 1), StepResult(
            jnp.float32([0, 1]) * (time == STEPS - 2), reward, asked, jnp.bool_(False)
        )


# rollouts and sequences end inside episodes, so memories are handed on from one to the next
FEED_FORWARD = PPO(
    learning_rate=1e-2,
    discount=0.9,
    hidden=(16,),
    rollout_length=18,
    sequence_length=6,
    batch_size=96,
    epochs=4,
    entropy_coefficient=0.01,
)


REPLAYED = {
    "learning_rate": 1e-2,
    "discount": 0.9,
    "hidden": (16,),
    "sequence_length": 8,
    "burn_in": 2,
    "batch_size": 256,
    "capacity": 4096,
    "warmup_steps": 256,
    "rollout_length": 4,
    "gradient_steps": 2,
}
AGENTS = {
    "ppo": (FEED_FORWARD, 60),
    "dqn": (DQN(**REPLAYED, target_interval=20, exploration_steps=4000.0), 250),
    "sac": (SAC(**REPLAYED, target_rate=0.05, target_entropy_fraction=0.1), 250),
}


@partial(jax.jit, static_argnames=("algorithm", "iterations"))
def mean_returns(algorithm, iterations, keys):
    """Of 256 episodes after training, [seed]."""
    environment = JaxEnvs(Shown(), ENVS)

    def one(key):
        key_train, key_play = jax.random.split(key)
        state = pure_train(algorithm, environment, key_train, iterations)[0].algorithm_state
        policy = bind_policy(algorithm, state, environment)
        return evaluate(environment, policy, key_play, 256)[0].mean()

    return jax.vmap(one)(keys)


@pytest.mark.system
@pytest.mark.parametrize("name", AGENTS)
def test_what_was_shown_is_known_later_by_a_memory(name):
    algorithm, iterations = AGENTS[name]
    keys = jax.random.split(jax.random.key(0), SEEDS)
    remembering = replace(algorithm, recurrent=GRU(16))
    returns = np.asarray(mean_returns(remembering, iterations, keys))
    assert (returns >= 0.9).all(), returns


def test_without_a_memory_nothing_is_known_of_what_was_shown():
    """When it is asked for, both symbols look alike, so that whatever a policy does is right half
    of the time."""

    @jax.jit
    def look(symbol):
        state, seen = (symbol, jnp.int32(0)), []
        for _ in range(STEPS):
            state, outcome = Shown().step(state, 1, jax.random.key(0))
            seen.append(outcome.next_observation)
        return jnp.stack(seen), outcome.reward

    (one, won), (other, lost) = look(np.float32(1)), look(np.float32(-1))
    np.testing.assert_array_equal(one[:-1], other[:-1])
    assert np.asarray(one)[STEPS - 2].tolist() == [0, 1] and (won, lost) == (1, -1)
