"""Action masks that an environment tells in its info, seen by a policy."""

from functools import partial

import gymnasium
import jax
import numpy as np
import pytest

from etude.algorithms.trust_region.ppo import PPO
from etude.environments import make
from etude.environments.backends.gymnasium_envs import GymnasiumEnvs
from etude.environments.wrappers.action_mask import ActionMaskWrapper, count_choices
from etude.errors import EnvironmentFault, InvalidInput
from etude.spaces import Discrete, MultiBinary
from etude.training import pure_train, run_compiled


class Told(gymnasium.Env):
    """Says `masks`, one a step, of three choices, and ends with the last of them."""

    observation_space = gymnasium.spaces.Discrete(9)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, masks):
        self.masks = masks

    def _info(self):
        mask = self.masks[min(self.time, len(self.masks) - 1)]
        return {} if mask is None else {"action_mask": mask}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return 0, self._info()

    def step(self, action):
        self.time += 1
        return self.time, 1.0, self.time >= len(self.masks) - 1, False, self._info()


def test_the_mask_is_part_of_what_is_seen():
    env = ActionMaskWrapper(Told([[1, 0, 1], [0, 1, 0]]))
    seen, _ = env.reset(seed=0)
    assert env.observation_space.contains(seen) and seen["observation"] == 0
    np.testing.assert_array_equal(seen["action_mask"], [1, 0, 1])
    seen, *_ = env.step(0)
    np.testing.assert_array_equal(seen["action_mask"], [0, 1, 0])


@pytest.mark.parametrize(
    "masks, said",
    [
        ([None], "should hold an action_mask of 3 choices, and holds none"),
        ([[1, 1]], "of 3 choices, and holds one of size 2"),
    ],
)
def test_a_mask_that_is_none_is_said_to_be(masks, said):
    with pytest.raises(EnvironmentFault, match=said):
        ActionMaskWrapper(Told(masks)).reset(seed=0)


def test_at_the_end_of_an_episode_a_mask_may_allow_nothing():
    env = ActionMaskWrapper(Told([[1, 1, 1], [0, 0, 0]]))
    env.reset(seed=0)
    seen, _, terminated, _, _ = env.step(0)
    assert terminated and not seen["action_mask"].any()


def test_choices_are_counted_and_other_actions_refused():
    assert count_choices(gymnasium.spaces.MultiDiscrete([2, 3])) == 5
    with pytest.raises(
        InvalidInput, match="action masks are for Discrete and MultiDiscrete actions"
    ):
        make("Pendulum-v1", action_masks=True)
    with pytest.raises(InvalidInput, match="action masks need --backend gymnasium"):
        make("CartPole-v1", backend="jax", action_masks=True)


@pytest.mark.system
def test_a_policy_in_training_takes_nothing_that_a_taxi_forbids():
    """Taxi says in its info which moves are none."""
    environment = make("Taxi-v4", 2, action_masks=True)
    assert environment.spec.observation.parts == (MultiBinary((6,)), Discrete(500))
    taken = []
    for simulator in environment.vector_env.envs:

        def step(action, simulator=simulator, inner=simulator.step):
            taken.append(simulator.unwrapped.action_mask(simulator.unwrapped.s)[action])
            return inner(action)

        simulator.step = step
    run = jax.jit(
        partial(
            pure_train,
            PPO(hidden=(4,), rollout_length=32, batch_size=16, epochs=1),
            environment,
            iterations=3,
        )
    )
    run_compiled(run, jax.random.key(0))
    environment.close()
    assert len(taken) == 3 * 32 * 2 and all(taken)


@pytest.mark.parametrize(
    "actions, masks, whole",
    [
        (gymnasium.spaces.Discrete(3), [[1, 0, 0], [0, 0, 0]], False),
        (gymnasium.spaces.MultiDiscrete([2, 3]), [[1, 0, 1, 0, 0], [1, 1, 0, 0, 0]], False),
        (gymnasium.spaces.MultiDiscrete([2, 3]), [[1, 0, 1, 0, 0], [0, 1, 0, 0, 1]], True),
        # it is no mask of such actions
        (gymnasium.spaces.Box(-1, 1, (3,)), [[1, 0, 0], [0, 0, 0]], True),
    ],
)
def test_where_a_mask_allows_nothing_the_copy_and_the_step_are_named(actions, masks, whole):
    """Whether the mask comes from the info or is part of the observation, of each part of an
    action."""

    class Seen(gymnasium.Env):
        action_space = actions
        observation_space = gymnasium.spaces.Dict(
            {"action_mask": gymnasium.spaces.MultiBinary(len(masks[0]))}
        )

        def reset(self, *, seed=None, options=None):
            return {"action_mask": np.array(masks[0], np.int8)}, {}

        def step(self, action):
            return {"action_mask": np.array(masks[1], np.int8)}, 0.0, False, False, {}

    environment = GymnasiumEnvs(Seen, 2)
    copies, action = environment.vector_env, np.zeros((2, *actions.shape), np.int32)
    copies.reset(0)
    if whole:
        copies.step(action)
    else:
        with pytest.raises(
            EnvironmentFault,
            match="copy 0 of Seen failed at its step 1: its action_mask allows nothing",
        ):
            copies.step(action)
