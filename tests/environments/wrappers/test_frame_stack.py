"""Stacked observations: what is seen is the latest so many of one episode, whatever the environment
is made of."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium_spaces import ACTIONS, OBSERVATIONS, Noise

from etude.environments import make
from etude.environments.backends.gymnasium_envs import GymnasiumEnvs
from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.probes import Counter
from etude.environments.wrappers.frame_stack import FrameStack, is_stacked, stacked_space
from etude.environments.wrappers.time_limit import TimeLimit
from etude.errors import InvalidInput
from etude.rollout import BoundPolicy, init_rollout_state, rollout
from etude.spaces import Box, Composite, Discrete, MultiBinary


def lived(environment, steps):
    @BoundPolicy
    def policy(observation, memory, key):
        return jnp.zeros(environment.spec.num_envs, jnp.int32), memory

    def run(key):
        start = init_rollout_state(environment, policy, key)
        return rollout(environment, policy, start, key, steps)[1]

    return jax.device_get(jax.jit(run)(jax.random.key(0)))


@pytest.mark.parametrize("counter", [Counter(5), TimeLimit(Counter(50), 5)])
def test_a_stack_holds_the_latest_observations_of_its_own_episode(counter):
    """The counter's observation is the number of steps taken, so a stack says which steps it is of,
    whether an episode terminates or is truncated."""
    experience = lived(FrameStack(JaxEnvs(counter, 2), 3), 12)
    for t in range(12):
        n = t % 5
        np.testing.assert_array_equal(
            experience.observation[t, 1, :, 0], [max(n - 2, 0), max(n - 1, 0), n]
        )
        np.testing.assert_array_equal(
            experience.next_observation[t, 1, :, 0], [max(n - 1, 0), n, n + 1]
        )
        assert experience.done[t, 1] == (n == 4)


def test_simulators_are_stacked_as_ports_are():
    """From the first observation on, which stands for all before it; the frames of the successor
    follow."""
    environment = make("CartPole-v1", 2, "gymnasium", frame_stack=4)
    assert (
        environment.spec.observation
        == make("CartPole-v1", 2, "jax", frame_stack=4).spec.observation
    )
    # the inner environment's
    assert (
        not environment.functional
        and environment.replayer is None  # nothing is logged
        and not environment.cancelled.is_set()
    )
    experience = lived(environment, 30)
    fresh = np.concatenate([np.ones((1, 2), bool), experience.done[:-1]])
    for t, i in np.ndindex(30, 2):
        stack, after = experience.observation[t, i], experience.next_observation[t, i]
        np.testing.assert_array_equal(after[:-1], stack[1:])
        if fresh[t, i]:
            assert (stack == stack[-1]).all()
        else:
            np.testing.assert_array_equal(stack, experience.next_observation[t - 1, i])
    assert experience.done.any()
    environment.close()


def test_choices_and_masks_are_the_latest_alone():
    space = Composite(
        (Box((2,), low=(0.0, -1.0), high=1.0), MultiBinary((3,)), Discrete(4)),
        ("seen", "some", "which"),
    )
    assert stacked_space(space, 2) == Composite(
        (Box((2, 2), low=(0.0, -1.0, 0.0, -1.0), high=1.0), *space.parts[1:]), space.names
    )
    masked = Composite((Box((3,), "int8", 0, 1), Box((1,))), ("action_mask", "observation"))
    assert stacked_space(masked, 2).parts == (masked.parts[0], Box((2, 1))) and is_stacked(
        masked
    ) == [False, True]


@pytest.mark.parametrize("kind", ["nested", "image"])
def test_every_box_of_an_observation_is_stacked(kind):
    environment = FrameStack(
        GymnasiumEnvs(partial(Noise, OBSERVATIONS[kind], ACTIONS["discrete"]), 2), 3
    )
    _, observation = jax.jit(environment.reset)(jax.random.key(0))
    shapes = jax.tree.map(lambda x: (2, *x.shape), environment.spec.observation.zeros())
    assert jax.tree.map(np.shape, observation) == shapes


def test_fewer_than_one_frame_is_refused():
    with pytest.raises(InvalidInput, match="frame_stack is 0; it must be at least 1"):
        make("CartPole-v1", frame_stack=0)
