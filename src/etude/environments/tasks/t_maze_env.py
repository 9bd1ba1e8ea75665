"""A T-maze, for Gymnasium; the import registers etude/TMaze-v0.

`etude.environments.tasks.t_maze` describes the task and is its version in JAX.
"""

from typing import Any

import gymnasium
import numpy as np

from etude.environments.tasks.picture import (
    FAILURE,
    FLOOR,
    GOAL,
    GRID,
    POINT,
    START,
    SUCCESS,
    WALL,
    WHITE,
    Picture,
)
from etude.errors import InvalidInput

LENGTH = 10  # steps from the start to the junction
NUM_ACTIONS = 3  # left, ahead, right
AHEAD = 1
MAX_STEPS = 100
CUE = GOAL  # the color of a cue in a picture


class TMazeEnv(gymnasium.Env):
    """Remember a side along a corridor; see `etude.environments.tasks.t_maze.TMaze`."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012

    def __init__(self, length: int = LENGTH, render_mode: str | None = None):
        if not 1 <= length < MAX_STEPS:
            raise InvalidInput(
                f"length is {length}; give 1 to {MAX_STEPS - 1}, for an episode has at most "
                f"{MAX_STEPS} steps"
            )
        self.length, self.render_mode = length, render_mode
        self.observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(NUM_ACTIONS)
        self.position, self.side = 0, 1  # -1 left, 1 right
        self.sees_cue, self.turn = True, 0  # the turn at the junction: -1, 1, or 0 before it

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.position, self.side = 0, int(self.np_random.choice((-1, 1)))
        self.sees_cue, self.turn = True, 0
        return self._observe(), self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.sees_cue = False
        if self.position == self.length:
            self.turn = int(action) - AHEAD
        elif action == AHEAD:
            self.position += 1
        info = self._info()
        return self._observe(), float(info["is_success"]), self.turn != 0, False, info

    def render(self) -> np.ndarray | None:
        """Return a picture [row, column, 3], from above; None without a render mode.

        The corridor goes from the left to the right, so left is up. The sign at the start shows the
        cue while it is seen; the ring in one arm, which the walker never sees, the reward.
        """
        if self.render_mode is None:
            return None
        picture = empty_maze(self.length)
        for side in (-1, 1):  # the sign
            color = CUE if self.sees_cue and side == self.side else START
            tip, foot = (0, -1.25 * side), (0, -0.75 * side)
            picture.line(foot, tip, 0.12, color)
            for x in (-0.2, 0.2):
                picture.line((x, -1.05 * side), tip, 0.12, color)
        reward = (self.length, -float(self.side))
        picture.disc(reward, 0.42, SUCCESS)
        picture.disc(reward, 0.32, FLOOR)
        walker = (self.position, -float(self.turn))
        is_wrong = self.turn not in (0, self.side)
        picture.disc(walker, 0.3, WHITE)
        picture.disc(walker, 0.25, FAILURE if is_wrong else POINT)
        return picture.to_uint8()

    def _observe(self) -> np.ndarray:
        cue = self.side if self.sees_cue else 0
        return np.array([cue, self.position == self.length], np.float32)

    def _info(self) -> dict[str, Any]:
        return {"is_success": self.turn == self.side}


def empty_maze(length: int) -> Picture:
    """A picture of the corridor and the two arms at its end, with a line between the places."""
    picture = Picture((-1, length + 1), (-1.8, 1.8), width=400, color=WALL)
    picture.rectangle((-0.5, -0.5), (length + 0.5, 0.5), FLOOR)
    picture.rectangle((length - 0.5, -1.5), (length + 0.5, 1.5), FLOOR)
    for place in range(length):
        picture.rectangle((place + 0.5, -0.5), (place + 0.5, 0.5), GRID)
    for y in (-0.5, 0.5):
        picture.rectangle((length - 0.5, y), (length + 0.5, y), GRID)
    return picture


gymnasium.register("etude/TMaze-v0", f"{__name__}:{TMazeEnv.__name__}", max_episode_steps=MAX_STEPS)
