"""A point in a room walks to a goal, in JAX: a first task for relabeling with goals reached.

It is the room of the notebook of "Learning to Reach Goals via Iterated Supervised Learning" (Ghosh
et al., 2021; GCSLDemo.ipynb in github.com/dibyaghosh/gcsl). The notebook has no reward; this one is
that of "Multi-Goal Reinforcement Learning" (Plappert et al., 2018).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from etude.environments.goals import GoalReward, register_goal_reward
from etude.environments.protocol import StepResult
from etude.environments.tasks.point_room_env import (
    DIRECTIONS,
    MAX_STEPS,
    NOISE,
    STEP_SIZE,
    TOLERANCE,
)
from etude.environments.wrappers.time_limit import TimeLimit
from etude.spaces import Box, Composite, Discrete
from etude.struct import static, struct
from etude.types import Array


@struct
class PointRoomState:
    """Where the point is and where it should go, each [2]."""

    position: Array
    goal: Array


@struct
class PointRoom:
    """Walk in the square [-1, 1]² from its center to a goal, which is drawn uniformly in it.

    Observation: a Dict of the position ("observation" and "achieved_goal") and "desired_goal", each
    [2]. The actions are up, right, down, left and stay, with steps of 0.05; where it is
    `continuous`, an action [2] in [-1, 1] is a displacement in units of 0.05. Noise of standard
    deviation 0.01 moves a step: one number, added to both coordinates. The only walls are the sides
    of the square, at which the point stops. Reward 0 within 0.05 of the goal, else -1. An episode
    goes on at the goal, and is cut off after 50 steps; the farthest goals are 39 steps away, or 20
    where it is `continuous`.
    """

    step_size: float = STEP_SIZE  # the displacement of a step, and of an action of 1
    noise: float = NOISE  # standard deviation of what is added to both coordinates
    continuous: bool = static(False)  # whether an action is a displacement, not a choice of five

    @property
    def observation_space(self) -> Composite:
        square = Box((2,), low=-1.0, high=1.0)
        return Composite((square,) * 3, ("achieved_goal", "desired_goal", "observation"))

    @property
    def action_space(self) -> Discrete | Box:
        return Box((2,), low=-1.0, high=1.0) if self.continuous else Discrete(len(DIRECTIONS))

    @property
    def goal_reward(self) -> GoalReward:
        return GoalReward(point_room_reward)

    def reset(self, key: Array) -> tuple[PointRoomState, dict[str, Array]]:
        state = PointRoomState(jnp.zeros(2), jax.random.uniform(key, (2,), minval=-1, maxval=1))
        return state, self.observe(state)

    def step(
        self, state: PointRoomState, action: Array, key: Array
    ) -> tuple[PointRoomState, StepResult]:
        noise = self.noise * jax.random.normal(key)
        position = self.move(state.position, action, noise)
        state = PointRoomState(position, state.goal)
        reward = point_room_reward(position, state.goal)
        never = jnp.bool_(False)
        return state, StepResult(self.observe(state), reward, never, never)

    def move(self, position: Array, action: Array, noise: Array) -> Array:
        """The next position, [2]."""
        direction = jnp.clip(action, -1, 1) if self.continuous else jnp.array(DIRECTIONS)[action]
        return jnp.clip(position + self.step_size * direction + noise, -1, 1)

    def observe(self, state: PointRoomState) -> dict[str, Array]:
        """Return what is seen of a state."""
        position = state.position
        return dict(achieved_goal=position, desired_goal=state.goal, observation=position)


def point_room_reward(achieved_goal: Array, desired_goal: Array) -> Array:
    """0 where the goal is reached, else -1."""
    distance = jnp.linalg.norm(achieved_goal - desired_goal)
    return jnp.where(distance <= TOLERANCE, 0.0, -1.0)


def limited_point_room(**parameters: Any) -> TimeLimit:
    """A point room with the time limit of its registration."""
    return TimeLimit(PointRoom(**parameters), MAX_STEPS)


# Gymnasium id -> function of the parameters that returns the environment with its time limit
POINT_ROOMS: dict[str, Callable[..., TimeLimit]] = {
    "etude/PointRoom-v0": limited_point_room,
    "etude/PointRoomContinuous-v0": partial(limited_point_room, continuous=True),
}
for point_room_id in POINT_ROOMS:
    register_goal_reward(point_room_id, point_room_reward)
