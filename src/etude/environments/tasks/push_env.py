"""Pushing a disc with a disc, for Gymnasium; the import registers etude/Push-v0.

`etude.environments.tasks.push` describes the task and is its version in JAX.
"""

import itertools
from typing import Any

import gymnasium
import numpy as np

from etude.environments.tasks.picture import (
    FLOOR,
    GOAL,
    GRID,
    POINT,
    SUCCESS,
    TRAIL,
    WALL,
    WHITE,
    Picture,
)

STEP_SIZE = 0.05  # of an action of 1, on each axis
PUSHER_RADIUS, BLOCK_RADIUS = 0.1, 0.15
CONTACT = PUSHER_RADIUS + BLOCK_RADIUS  # distance of the centers where the discs touch
TARGET = (0.6, 0.0)
TOLERANCE = 0.05  # distance of the block from the target at which it is there
START_DISTANCE = 0.35  # of the pusher from the block
SPREAD = 0.05  # largest distance of either from its place at the start, on each axis
REACH = 1 + CONTACT  # farthest coordinate of the block
MAX_STEPS = 100
DESIRED = GOAL  # the color of the target


class PushEnv(gymnasium.Env):
    """Push a block to a target; see `etude.environments.tasks.push.Push`."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode
        high = np.array([1, 1, REACH, REACH], np.float32)
        self.observation_space = gymnasium.spaces.Box(-high, high)
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self.pusher = np.array([START_DISTANCE, 0], np.float32)
        self.block = np.zeros(2, np.float32)
        self.trail = [self.pusher]  # of the pusher

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        spread = self.np_random.uniform(-SPREAD, SPREAD, (2, 2)).astype(np.float32)
        self.pusher = np.array([START_DISTANCE, 0], np.float32) + spread[0]
        self.block = spread[1]
        self.trail = [self.pusher]
        return self._observe(), self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        displacement = np.float32(STEP_SIZE) * np.clip(np.float32(action), -1, 1)
        self.pusher = np.clip(self.pusher + displacement, -1, 1)
        self.block = push_out(self.pusher, self.block)
        self.trail.append(self.pusher)
        info = self._info()
        return self._observe(), float(info["is_success"]), info["is_success"], False, info

    def render(self) -> np.ndarray | None:
        """Return a picture [row, column, 3], from above; None without a render mode."""
        if self.render_mode is None:
            return None
        picture = empty_table()
        for first, second in itertools.pairwise(self.trail):
            picture.line(first, second, 0.025, TRAIL)
        is_there = self._info()["is_success"]
        picture.disc(self.block, BLOCK_RADIUS, SUCCESS if is_there else WALL)
        picture.disc(self.block, 0.02, WHITE)
        picture.disc(self.pusher, PUSHER_RADIUS, WHITE)
        picture.disc(self.pusher, PUSHER_RADIUS - 0.015, POINT)
        return picture.to_uint8()

    def _observe(self) -> np.ndarray:
        return np.concatenate([self.pusher, self.block])

    def _info(self) -> dict[str, Any]:
        distance_squared = ((self.block - np.array(TARGET, np.float32)) ** 2).sum()
        return {"is_success": bool(distance_squared <= np.float32(TOLERANCE**2))}


def push_out(pusher: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Where the block, [2], is after the pusher, [2], has come to its place.

    Where the two overlap, the block moves away along the line of the centers until they touch.
    """
    apart = block - pusher
    distance = np.sqrt((apart**2).sum())
    if distance >= np.float32(CONTACT):
        return block
    return pusher + np.float32(CONTACT) * apart / max(distance, np.float32(1e-6))


def empty_table() -> Picture:
    """A picture of the table, and the target."""
    picture = Picture((-REACH, REACH), (-REACH, REACH), color=FLOOR)
    for at in (-1, -0.5, 0, 0.5, 1):
        picture.rectangle((at, -REACH), (at, REACH), GRID)
        picture.rectangle((-REACH, at), (REACH, at), GRID)
    picture.disc(TARGET, BLOCK_RADIUS + TOLERANCE, DESIRED, 0.25)
    picture.disc(TARGET, TOLERANCE, DESIRED)
    return picture


gymnasium.register("etude/Push-v0", f"{__name__}:{PushEnv.__name__}", max_episode_steps=MAX_STEPS)
