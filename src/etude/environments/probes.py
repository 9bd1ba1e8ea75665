"""Environments so small that their values are known, each isolating one faculty of an agent.

The idea is Jones's, "Debugging RL, without the agonizing pain", 2021. The successor at the end of a
one-step episode is its own start, so a value that is bootstrapped past the end is wrong by a lot.
Observations are float32 [1]; the state of a probe is its observation. `action_space` is DISCRETE or
CONTINUOUS, and only `ActionToReward` and `ObservationTimesAction` look at the action.
"""

import jax
import jax.numpy as jnp

from etude.environments.protocol import StepResult
from etude.spaces import Box, Discrete
from etude.struct import static, struct
from etude.types import Array

DISCRETE = Discrete(2)
CONTINUOUS = Box((1,), low=-1.0, high=1.0)
# what a continuous action should be: away from the bounds, which a squashed policy never reaches
TARGET = 0.5

_SIGNED = Box((1,), low=-1.0, high=1.0)


@struct
class ConstantValue:
    """One step, reward 1, nothing to see or to choose: the value is 1. Tests the value loss and the
    end of episodes."""

    action_space: Discrete | Box = static(DISCRETE)
    observation_space = _SIGNED

    def reset(self, key: Array) -> tuple[Array, Array]:
        return _both(0)

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, StepResult]:
        return _step_result(state, 1, True)


@struct
class ValueFromObservation:
    """One step, the observation is −1 or 1 at random and the reward, so the value, equals it. Tests
    that values see."""

    action_space: Discrete | Box = static(DISCRETE)
    observation_space = _SIGNED

    def reset(self, key: Array) -> tuple[Array, Array]:
        return _both(jax.random.rademacher(key))

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, StepResult]:
        return _step_result(state, state[0], True)


@struct
class Discounting:
    """Two steps, the observation is the time, the second pays 1: V(0) = discount, V(1) = 1. Tests
    bootstrapping."""

    action_space: Discrete | Box = static(DISCRETE)
    observation_space = Box((1,), low=0.0, high=2.0)

    def reset(self, key: Array) -> tuple[Array, Array]:
        return _both(0)

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, StepResult]:
        end = state[0] == 1
        return _step_result(state + 1, end, end)


@struct
class ActionToReward:
    """One step with one right action. Tests that policies and action values follow the reward.

    Discrete: reward −1 for action 0 and 1 for action 1. Continuous: reward −(action − TARGET)².
    """

    action_space: Discrete | Box = static(DISCRETE)
    observation_space = _SIGNED

    def reset(self, key: Array) -> tuple[Array, Array]:
        return _both(0)

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, StepResult]:
        return _step_result(state, _match(self.action_space, action, 1), True)


@struct
class ObservationTimesAction:
    """One step in which the right action depends on the observation, −1 or 1 at random. Tests that
    policies see.

    Discrete: reward 1 if action 1 meets observation 1 or action 0 meets −1, else −1. Continuous:
    reward −(action − TARGET observation)².
    """

    action_space: Discrete | Box = static(DISCRETE)
    observation_space = _SIGNED

    def reset(self, key: Array) -> tuple[Array, Array]:
        return _both(jax.random.rademacher(key))

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, StepResult]:
        return _step_result(state, _match(self.action_space, action, state[0]), True)


@struct
class Counter:
    """The observation is the number of steps taken, and the episode terminates after `length` of
    them; reward 1 a step.

    Every transition has next_observation = observation + 1, the last one `length`, and the next
    episode starts at 0: a stored successor that belongs to the next episode is seen at once. V(n) =
    Σ discount^i, i < length − n.
    """

    length: int = static(10)
    action_space: Discrete | Box = static(DISCRETE)

    @property
    def observation_space(self) -> Box:
        return Box((1,), low=0.0, high=float(self.length))

    def reset(self, key: Array) -> tuple[Array, Array]:
        return _both(0)

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, StepResult]:
        return _step_result(state + 1, 1, state[0] + 1 >= self.length)


@struct
class TimeLimited:
    """Reward 1 a step for ever, nothing to see; to be cut off by `TimeLimit`. Tests that truncation
    is not termination.

    The value is 1 / (1 − discount) whatever the limit; taking the limit for an end gives
    1 / (1 − discount (1 − 1 / limit)) (Pardo et al., "Time limits in reinforcement learning",
    2018).
    """

    action_space: Discrete | Box = static(DISCRETE)
    observation_space = _SIGNED

    def reset(self, key: Array) -> tuple[Array, Array]:
        return _both(0)

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, StepResult]:
        return _step_result(state, 1, False)


def _both(number) -> tuple[Array, Array]:
    observation = jnp.full((1,), number, jnp.float32)
    return observation, observation


def _step_result(state: Array, reward, terminated) -> tuple[Array, StepResult]:
    return state, StepResult(state, jnp.float32(reward), jnp.bool_(terminated), jnp.bool_(False))


def _match(action_space: Discrete | Box, action: Array, sign) -> Array:
    """The reward of an action that should be `sign`: −1 or 1 for a choice, TARGET times it for a
    number."""
    if isinstance(action_space, Discrete):
        return sign * (2 * action - 1)
    return -((action[0] - TARGET * sign) ** 2)
