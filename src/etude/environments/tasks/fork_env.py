"""A fork around a disc, for Gymnasium; the import registers etude/Fork-v0.

`etude.environments.tasks.fork` describes the task and is its version in JAX.
"""

import itertools
from typing import Any

import gymnasium
import numpy as np

from etude.environments.tasks.picture import (
    FAILURE,
    FLOOR,
    GRID,
    POINT,
    START,
    SUCCESS,
    TRAIL,
    WALL,
    WHITE,
    Picture,
)

FORWARD = 0.125  # of every step
SIDEWAYS = 0.125  # of an action of 1
NUM_STEPS = 16  # from x = -1 to x = 1
DISC, RADIUS = (-0.1, 0.0), 0.58
START_SPREAD = 0.02  # largest distance from y = 0 at the start
SIZE, MARGIN = 0.05, 0.12  # of a picture: the radius of the point, and the walls


class ForkEnv(gymnasium.Env):
    """Pass a disc on either side; see `etude.environments.tasks.fork.Fork`."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self.trail = [np.array([-1, 0], np.float32)]  # the positions of the episode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        y = self.np_random.uniform(-START_SPREAD, START_SPREAD)
        self.trail = [np.array([-1, y], np.float32)]
        return self.trail[-1].copy(), {"is_success": False}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        displacement = np.float32(SIDEWAYS) * np.clip(np.float32(action[0]), -1, 1)
        x = -1 + FORWARD * len(self.trail)
        y = np.clip(self.trail[-1][1] + displacement, -1, 1)
        self.trail.append(np.array([x, y], np.float32))
        collides = self.collides()
        passes = len(self.trail) > NUM_STEPS and not collides
        info = {"is_success": passes}
        return self.trail[-1].copy(), float(passes), collides or passes, False, info

    def collides(self) -> bool:
        """Whether the point is in the disc."""
        return bool(((self.trail[-1] - np.array(DISC, np.float32)) ** 2).sum() < RADIUS**2)

    def render(self) -> np.ndarray | None:
        """Return a picture [row, column, 3], from above; None without a render mode.

        The point goes from the left to the right, so left is up.
        """
        if self.render_mode is None:
            return None
        picture = empty_course()
        for first, second in itertools.pairwise(self.trail):
            picture.line(first, second, 0.03, TRAIL)
        picture.disc(self.trail[0], 0.04, START)
        position = self.trail[-1]
        color = SUCCESS if len(self.trail) > NUM_STEPS else POINT
        picture.disc(position, SIZE + 0.015, WHITE)
        picture.disc(position, SIZE, FAILURE if self.collides() else color)
        return picture.to_uint8()


def empty_course() -> Picture:
    """A picture of the disc between two walls, and the line to reach."""
    picture = Picture((-1 - MARGIN, 1 + MARGIN), (-1 - MARGIN, 1 + MARGIN), color=FLOOR)
    picture.rectangle((1, -1), (1.02, 1), SUCCESS)
    for x in (-0.5, 0, 0.5):
        picture.rectangle((x, -1), (x, 1), GRID)
    for wall in (-1 - MARGIN, 1 + MARGIN):
        picture.rectangle((-1 - MARGIN, wall), (1 + MARGIN, np.sign(wall)), WALL)
    picture.disc(DISC, RADIUS, WALL)
    return picture


gymnasium.register("etude/Fork-v0", f"{__name__}:{ForkEnv.__name__}")
