"""A point in a room walks to a goal, for Gymnasium; the import registers the ids.

etude/PointRoom-v0              five actions: up, right, down, left and stay
etude/PointRoomContinuous-v0    a displacement as action

`etude.environments.tasks.point_room` describes the task and is its version in JAX.
"""

from typing import Any

import gymnasium
import numpy as np

from etude.environments.tasks.picture import (
    FLOOR,
    GOAL,
    GRID,
    POINT,
    START,
    SUCCESS,
    TRAIL,
    WALL,
    WHITE,
    Picture,
)

STEP_SIZE = 0.05  # of an action, on each axis
NOISE = 0.01  # standard deviation of the noise of a step
TOLERANCE = 0.05  # distance at which a goal is reached
MAX_STEPS = 50
DIRECTIONS = ((0.0, 1.0), (1.0, 0.0), (0.0, -1.0), (-1.0, 0.0), (0.0, 0.0))  # of the actions

MARGIN = 0.1  # of a picture: the walls around the room
DESIRED = GOAL  # the color of a goal that is not reached


class PointRoomEnv(gymnasium.Env):
    """A point in a room walks to a goal; see `etude.environments.tasks.point_room.PointRoom`."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(self, continuous: bool = False, render_mode: str | None = None):
        self.continuous, self.render_mode = continuous, render_mode
        square = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = gymnasium.spaces.Dict(
            {"observation": square, "achieved_goal": square, "desired_goal": square}
        )
        self.action_space = square if continuous else gymnasium.spaces.Discrete(len(DIRECTIONS))
        self.position = self.goal = np.zeros(2, np.float32)
        self.trail = [self.position]  # the positions of the episode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        self.position = np.zeros(2, np.float32)
        self.goal = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        self.trail = [self.position]
        return self._observe(), self._info()

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        noise = np.float32(NOISE) * np.float32(self.np_random.standard_normal())
        direction = action if self.continuous else DIRECTIONS[action]
        self.position = move_point(self.position, np.asarray(direction, np.float32), noise)
        self.trail.append(self.position)
        reward = float(self.compute_reward(self.position, self.goal, {}))
        return self._observe(), reward, False, False, self._info()

    def compute_reward(
        self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: Any
    ) -> np.ndarray:
        """0 where a goal is reached, else -1, [...], of goals [..., 2]; info is not read."""
        distance = np.linalg.norm(achieved_goal - desired_goal, axis=-1)
        return np.where(distance <= TOLERANCE, np.float32(0), np.float32(-1))

    def render(self) -> np.ndarray | None:
        """Return a picture [row, column, 3] of the room; None without a render mode."""
        if self.render_mode is None:
            return None
        picture = empty_room()
        reached = self.compute_reward(self.position, self.goal, {}) == 0
        color = SUCCESS if reached else DESIRED
        picture.disc(self.goal, TOLERANCE, color, 0.25)
        picture.disc(self.goal, 0.02, color)
        picture.disc(self.trail[0], 0.03, START)
        for i, position in enumerate(self.trail):
            picture.disc(position, 0.012, TRAIL, 0.3 + 0.7 * i / len(self.trail))
        picture.disc(self.position, 0.045, WHITE)
        picture.disc(self.position, 0.035, POINT)
        return picture.to_uint8()

    def _observe(self) -> dict[str, np.ndarray]:
        return {
            "observation": self.position.copy(),
            "achieved_goal": self.position.copy(),
            "desired_goal": self.goal.copy(),
        }

    def _info(self) -> dict[str, Any]:
        return {"is_success": bool(self.compute_reward(self.position, self.goal, {}) == 0)}


def move_point(position: np.ndarray, direction: np.ndarray, noise: np.float32) -> np.ndarray:
    """The next position, [2], in a direction within [-1, 1]², with the same noise on both axes."""
    displacement = np.float32(STEP_SIZE) * np.clip(direction, -1, 1)
    return np.clip(position + displacement + noise, -1, 1)


def empty_room() -> Picture:
    """A picture of the floor and the walls."""
    sides = (-1 - MARGIN, 1 + MARGIN)
    picture = Picture(sides, sides, color=WALL)
    picture.rectangle((-1, -1), (1, 1), FLOOR)
    for at in (-0.5, 0, 0.5):
        picture.rectangle((at, -1), (at, 1), GRID)
        picture.rectangle((-1, at), (1, at), GRID)
    return picture


for env_id, options in (("PointRoom-v0", {}), ("PointRoomContinuous-v0", {"continuous": True})):
    gymnasium.register(
        f"etude/{env_id}",
        f"{__name__}:{PointRoomEnv.__name__}",
        max_episode_steps=MAX_STEPS,
        kwargs=options,
    )
