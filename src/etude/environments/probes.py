"""Probe environments: so small that their values are known, each tests one ability of an agent.

Source: Jones, "Debugging RL, without the agonizing pain", 2021. The last next observation of a
one-step episode equals its first observation, so a value that bootstraps past the end is far off.
Observations are float32 [1], and the state of a probe is its observation. `action_space` is
DISCRETE or CONTINUOUS; only `ActionToReward` and `ObservationTimesAction` depend on the action.
"""

import jax
import jax.numpy as jnp

from etude.environments.protocol import StepResult
from etude.spaces import Box, Discrete
from etude.struct import static, struct
from etude.types import Array

DISCRETE = Discrete(2)
CONTINUOUS = Box((1,), low=-1.0, high=1.0)
# the best continuous action: away from the bounds, which a squashed policy never reaches
TARGET = 0.5

_UNIT_BOX = Box((1,), low=-1.0, high=1.0)


@struct
class ConstantValue:
    """One step, reward 1, constant observation: V = 1. Tests the value loss and termination."""

    action_space: Discrete | Box = static(DISCRETE)
    observation_space = _UNIT_BOX

    def reset(self, key: Array) -> tuple[Array, Array]:
        return _state_and_observation(0)

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, StepResult]:
        return _step_result(state, 1, True)


@struct
class ValueFromObservation:
    """One step, a random observation of −1 or 1 that is the reward. Tests the input of V."""

    action_space: Discrete | Box = static(DISCRETE)
    observation_space = _UNIT_BOX

    def reset(self, key: Array) -> tuple[Array, Array]:
        return _state_and_observation(jax.random.rademacher(key))

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, StepResult]:
        return _step_result(state, state[0], True)


@struct
class Discounting:
    """Two steps, the observation is the time, the second reward is 1. Tests bootstrapping.

    V(0) = discount, V(1) = 1.
    """

    action_space: Discrete | Box = static(DISCRETE)
    observation_space = Box((1,), low=0.0, high=2.0)

    def reset(self, key: Array) -> tuple[Array, Array]:
        return _state_and_observation(0)

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, StepResult]:
        is_last = state[0] == 1
        return _step_result(state + 1, is_last, is_last)


@struct
class ActionToReward:
    """One step with one best action. Tests that policies and action values follow the reward.

    Discrete: reward −1 for action 0 and 1 for action 1. Continuous: reward −(action − TARGET)².
    """

    action_space: Discrete | Box = static(DISCRETE)
    observation_space = _UNIT_BOX

    def reset(self, key: Array) -> tuple[Array, Array]:
        return _state_and_observation(0)

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, StepResult]:
        return _step_result(state, _action_reward(self.action_space, action, 1), True)


@struct
class ObservationTimesAction:
    """One step, the best action depends on a random observation. Tests that policies use it.

    The observation is −1 or 1. Discrete: reward 1 if action 1 meets observation 1 or action 0 meets
    −1, else −1. Continuous: reward −(action − TARGET observation)².
    """

    action_space: Discrete | Box = static(DISCRETE)
    observation_space = _UNIT_BOX

    def reset(self, key: Array) -> tuple[Array, Array]:
        return _state_and_observation(jax.random.rademacher(key))

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, StepResult]:
        return _step_result(state, _action_reward(self.action_space, action, state[0]), True)


@struct
class Counter:
    """The observation counts the steps; the episode terminates after `length` of them; reward 1.

    Every transition has next_observation = observation + 1, the last one `length`, and the next
    episode starts at 0: a test can tell a next observation that belongs to the next episode.
    V(n) = Σ discount^i, i < length − n.
    """

    length: int = static(10)
    action_space: Discrete | Box = static(DISCRETE)

    @property
    def observation_space(self) -> Box:
        return Box((1,), low=0.0, high=float(self.length))

    def reset(self, key: Array) -> tuple[Array, Array]:
        return _state_and_observation(0)

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, StepResult]:
        return _step_result(state + 1, 1, state[0] + 1 >= self.length)


@struct
class TimeLimited:
    """Reward 1 a step for ever, for use with `TimeLimit`. Tests that truncation is not termination.

    V = 1 / (1 − discount) for any limit; an agent that takes the limit for a termination learns
    1 / (1 − discount (1 − 1 / limit)) (Pardo et al., "Time limits in reinforcement learning",
    2018).
    """

    action_space: Discrete | Box = static(DISCRETE)
    observation_space = _UNIT_BOX

    def reset(self, key: Array) -> tuple[Array, Array]:
        return _state_and_observation(0)

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, StepResult]:
        return _step_result(state, 1, False)


def _state_and_observation(value) -> tuple[Array, Array]:
    observation = jnp.full((1,), value, jnp.float32)
    return observation, observation


def _step_result(state: Array, reward, terminated) -> tuple[Array, StepResult]:
    return state, StepResult(state, jnp.float32(reward), jnp.bool_(terminated), jnp.bool_(False))


def _action_reward(action_space: Discrete | Box, action: Array, sign) -> Array:
    """The reward of an action whose best value is `sign` (−1 or 1), times TARGET if continuous."""
    if isinstance(action_space, Discrete):
        return sign * (2 * action - 1)
    return -((action[0] - TARGET * sign) ** 2)
