"""A course of discs, for Gymnasium; the import registers etude/Avoiding-v0.

`etude.environments.tasks.avoiding` describes the task and is its version in JAX. The route of an
episode is in its last `info`, and `avoiding_route` tells it of any positions.
"""

import itertools
from typing import Any

import gymnasium
import numpy as np

from etude.environments.tasks.picture import (
    FAILURE,
    FLOOR,
    POINT,
    START,
    SUCCESS,
    TRAIL,
    WALL,
    WHITE,
    Picture,
)

STEP_SIZE = 0.05  # of an action of 1, on each axis
ROWS = (0.5, 1.3, 2.1)  # where they are; the first has one disc, the next two, the last three
SPACING, RADIUS = 0.4, 0.1  # of the discs of a row: from center to center, and of each
FINISH = 2.5
MAX_STEPS = 120
# the center (x, y) of each disc
DISCS = tuple((x, SPACING * (i - row / 2)) for row, x in enumerate(ROWS) for i in range(row + 1))
NUM_ROUTES = 2 * 3 * 4
SIZE, MARGIN = 0.04, 0.1  # of a picture: the radius of the point, and the walls


class AvoidingEnv(gymnasium.Env):
    """Pass three rows of discs; see `etude.environments.tasks.avoiding.Avoiding`."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode
        self.low, self.high = np.array([[0, -1], [FINISH, 1]], np.float32)  # of a position
        self.observation_space = gymnasium.spaces.Box(self.low, self.high)
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self.trail = [np.zeros(2, np.float32)]  # the positions of the episode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.trail = [np.zeros(2, np.float32)]
        return self.trail[-1].copy(), self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        displacement = np.float32(STEP_SIZE) * np.clip(np.float32(action), -1, 1)
        self.trail.append(np.clip(self.trail[-1] + displacement, self.low, self.high))
        info = self._info()
        is_over = self.collides() or info["is_success"]
        return self.trail[-1].copy(), float(info["is_success"]), is_over, False, info

    def collides(self) -> bool:
        """Whether the latest step touches a disc."""
        if len(self.trail) == 1:
            return False
        start, end = self.trail[-2:]
        along = end - start
        to_disc = np.array(DISCS, np.float32) - start
        share = np.clip(to_disc @ along / max((along**2).sum(), np.float32(1e-12)), 0, 1)
        nearest = to_disc - share[:, None] * along
        return bool(((nearest**2).sum(-1) < RADIUS**2).any())

    def render(self) -> np.ndarray | None:
        """Return a picture [row, column, 3], from above; None without a render mode.

        The point goes from the left to the right, so left is up.
        """
        if self.render_mode is None:
            return None
        picture = empty_obstacles()
        for first, second in itertools.pairwise(self.trail):
            picture.line(first, second, 0.025, TRAIL)
        picture.disc(self.trail[0], 0.03, START)
        position = self.trail[-1]
        color = SUCCESS if self._info()["is_success"] else POINT
        picture.disc(position, SIZE + 0.012, WHITE)
        picture.disc(position, SIZE, FAILURE if self.collides() else color)
        return picture.to_uint8()

    def _info(self) -> dict[str, Any]:
        reached = bool(self.trail[-1][0] >= np.float32(FINISH)) and not self.collides()
        return {"is_success": reached, "route": avoiding_route(np.stack(self.trail))}


def avoiding_route(positions: np.ndarray) -> int:
    """The route of an episode: which gap of each row it went through.

    Args:
        positions: [time, 2], from the start on, the last one included.

    Returns:
        12 a + 4 b + c, from 0 to 23, where a, b and c are the gaps of the three rows, counted from
        the right; -1 where not every row is passed. Of several passages of a row the last counts.
    """
    x, y = np.asarray(positions, float).T
    route = 0
    for row, at in enumerate(ROWS):
        passages = np.flatnonzero((x[:-1] < at) & (x[1:] >= at))
        if not passages.size or x[-1] < at:
            return -1
        i = passages[-1]
        height = y[i] + (y[i + 1] - y[i]) * (at - x[i]) / (x[i + 1] - x[i])
        discs = SPACING * (np.arange(row + 1) - row / 2)
        route = (row + 2) * route + int((height > discs).sum())
    return route


def route_entropy(routes: np.ndarray) -> float:
    """The entropy of the routes of episodes, -Σ p log₂₄ p, where p is the share of a route.

    It is 0 if all episodes take one route, and 1 if all 24 routes are equally frequent.

    Args:
        routes: [episode], of `avoiding_route`; episodes of -1, without a route, do not count, and
            if there are no others it is 0.
    """
    routes = np.asarray(routes)
    _, counts = np.unique(routes[routes >= 0], return_counts=True)
    share = counts / max(counts.sum(), 1)
    return float(-(share * np.log(share)).sum() / np.log(NUM_ROUTES)) + 0.0  # no -0.0


def empty_obstacles() -> Picture:
    """A picture of the discs between two walls, and the line to reach."""
    picture = Picture((-0.15, FINISH + 0.15), (-1 - MARGIN, 1 + MARGIN), 400, FLOOR)
    picture.rectangle((FINISH, -1), (FINISH + 0.02, 1), SUCCESS)
    for wall in (-1 - MARGIN, 1 + MARGIN):
        picture.rectangle((-0.15, wall), (FINISH + 0.15, np.sign(wall)), WALL)
    for disc in DISCS:
        picture.disc(disc, RADIUS, WALL)
    return picture


gymnasium.register(
    "etude/Avoiding-v0", f"{__name__}:{AvoidingEnv.__name__}", max_episode_steps=MAX_STEPS
)
