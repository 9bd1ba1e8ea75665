"""A tightrope walker, for Gymnasium; the import registers etude/Tightrope-v0.

`etude.environments.tasks.tightrope` describes the task and is its version in JAX.
"""

from typing import Any

import gymnasium
import numpy as np

from etude.environments.tasks.picture import FAILURE, POINT, SUCCESS, WALL, WHITE, Picture

NUM_PLACES, NUM_ACTIONS = 3, 3  # left of the rope, on it, right of it; left, ahead, right
ROPE = 1  # the place on the rope
MAX_STEPS = 100

# of a picture from above, in units of the rope's length: from one place to the next, half the pole
SIDE, POLE = 0.13, 0.09
NET, MESH, ROPE_COLOR = (222, 229, 236), (206, 215, 225), (150, 116, 75)


class TightropeEnv(gymnasium.Env):
    """Walk on a rope; see `etude.environments.tasks.tightrope.Tightrope`."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Discrete(NUM_PLACES)
        self.action_space = gymnasium.spaces.Discrete(NUM_ACTIONS)
        self.trail = [ROPE]  # the places of the episode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.trail = [ROPE]
        return ROPE, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        place = min(max(self.trail[-1] + int(action) - 1, 0), NUM_PLACES - 1)
        self.trail.append(place)
        return place, 0.0 if place == ROPE else -1.0, False, False, {}

    def render(self) -> np.ndarray | None:
        """Return a picture [row, column, 3], from above; None without a render mode.

        The walker goes from the left to the right, past a mark for each step: green on the rope,
        red off it. Beyond 100 steps they are drawn closer together.
        """
        if self.render_mode is None:
            return None
        picture = empty_net()
        length = max(MAX_STEPS, len(self.trail) - 1)
        at = [(t / length, SIDE * (ROPE - place)) for t, place in enumerate(self.trail)]
        for position, place in zip(at, self.trail, strict=True):
            picture.disc(position, 0.008, SUCCESS if place == ROPE else FAILURE)
        x, y = at[-1]
        picture.line((x, y - POLE), (x, y + POLE), 0.012, WALL)  # what balances the walker
        picture.disc((x, y), 0.034, WHITE)
        picture.disc((x, y), 0.027, POINT if self.trail[-1] == ROPE else FAILURE)
        return picture.to_uint8()


def empty_net() -> Picture:
    """A picture of the rope between two platforms, above a net."""
    picture = Picture((-0.12, 1.12), (-0.3, 0.3), width=400, color=NET)
    for x in np.arange(-0.12, 1.13, 0.04):
        picture.rectangle((x, -0.3), (x, 0.3), MESH)
    for y in np.arange(-0.28, 0.3, 0.04):
        picture.rectangle((-0.12, y), (1.12, y), MESH)
    picture.line((-0.1, 0), (1.1, 0), 0.012, ROPE_COLOR)
    for start, end in ((-0.12, -0.04), (1.04, 1.12)):
        picture.rectangle((start, -0.08), (end, 0.08), WALL)
    return picture


gymnasium.register(
    "etude/Tightrope-v0", f"{__name__}:{TightropeEnv.__name__}", max_episode_steps=MAX_STEPS
)
