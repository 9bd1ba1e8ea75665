"""The mountain car with discrete and continuous actions.

Both are equal step by step to Gymnasium's MountainCar-v0 and MountainCarContinuous-v0.
"""

import jax
import jax.numpy as jnp
import numpy as np

from etude.dynamics import mountain_car
from etude.environments.protocol import StepResult
from etude.spaces import Box, Discrete
from etude.struct import static, struct
from etude.types import Array


def _observation_space(car) -> Box:
    low, high = np.array(
        [[car.min_position, -car.max_speed], [car.max_position, car.max_speed]], np.float32
    ).tolist()
    return Box((2,), low=tuple(low), high=tuple(high))


def _dynamics(car, state: Array, control: Array) -> Array:
    """The next state [2] under a push `control` [1] in [−1, 1], not clipped here.

    The left wall stops the car.
    """
    return mountain_car.next_state(
        state,
        control,
        power=car.power,
        gravity=car.gravity,
        min_position=car.min_position,
        max_position=car.max_position,
        max_speed=car.max_speed,
    )


def _reset(car, key: Array) -> tuple[Array, Array]:
    position = jax.random.uniform(key, (), jnp.float32, car.min_start, car.max_start)
    state = jnp.stack([position, jnp.zeros_like(position)])
    return state, state


def _terminates(car, next_state: Array) -> Array:
    position, velocity = next_state
    return (position >= car.goal_position) & (velocity >= car.goal_velocity)


@struct
class MountainCar:
    """Drive out of a valley by rocking: push left (action 0), not at all (1) or right (2).

    State and observation, [2]: the position and the velocity (a step). The height of the road is
    sin(3 position). Reward −1 a step. Terminates when the car is past the goal and not rolling
    back. Moore, "Efficient memory-based learning for robot control", 1990; constants of Sutton,
    "Generalization in reinforcement learning: successful examples using sparse coarse coding",
    1996.
    """

    power: float = 0.001  # velocity gained in a step by a full push
    gravity: float = 0.0025  # velocity lost in a step on the steepest slope
    goal_position: float = 0.5
    goal_velocity: float = 0.0
    min_start: float = -0.6  # the first position is between these
    max_start: float = -0.4
    min_position: float = static(-1.2)  # an inelastic wall
    max_position: float = static(0.6)
    max_speed: float = static(0.07)  # a step

    observation_space = property(_observation_space)
    dynamics = _dynamics
    reset = _reset
    terminates = _terminates

    @property
    def action_space(self) -> Discrete:
        return Discrete(3)

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, StepResult]:
        next_state = self.dynamics(state, (action - 1)[None])
        reward, terminated = self.reward(state, action, next_state), self.terminates(next_state)
        return next_state, StepResult(next_state, reward, terminated, jnp.bool_(False))

    def reward(self, state: Array, action: Array, next_state: Array) -> Array:
        return jnp.float32(-1)


@struct
class ContinuousMountainCar:
    """The same valley with a push [1] in [−1, 1], a stronger engine and a nearer goal.

    Reward −0.1 push² a step, of the push before it is clipped, and 100 for the step
    that terminates.
    """

    power: float = 0.0015  # velocity gained in a step by a full push
    gravity: float = 0.0025  # velocity lost in a step on the steepest slope
    goal_position: float = 0.45
    goal_velocity: float = 0.0
    min_start: float = -0.6  # the first position is between these
    max_start: float = -0.4
    min_position: float = static(-1.2)  # an inelastic wall
    max_position: float = static(0.6)
    max_speed: float = static(0.07)  # a step

    observation_space = property(_observation_space)
    dynamics = _dynamics
    reset = _reset
    terminates = _terminates

    @property
    def action_space(self) -> Box:
        return Box((1,), low=-1.0, high=1.0)

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, StepResult]:
        next_state = self.dynamics(state, jnp.clip(action, -1, 1))
        reward, terminated = self.reward(state, action, next_state), self.terminates(next_state)
        return next_state, StepResult(next_state, reward, terminated, jnp.bool_(False))

    def reward(self, state: Array, action: Array, next_state: Array) -> Array:
        return jnp.where(self.terminates(next_state), 100.0, 0.0) - 0.1 * action[0] ** 2
