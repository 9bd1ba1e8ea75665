"""A point in a room walks to a goal, for Gymnasium; the import registers the ids.

etude/PointRoom-v0              five actions: up, right, down, left and stay
etude/PointRoomContinuous-v0    a displacement as action

`etude.environments.tasks.point_room` describes the task and is its version in JAX.
"""

from typing import Any

import gymnasium
import numpy as np

STEP_SIZE = 0.05  # of an action, on each axis
NOISE = 0.01  # standard deviation of the noise of a step
TOLERANCE = 0.05  # distance at which a goal is reached
MAX_STEPS = 50
DIRECTIONS = ((0.0, 1.0), (1.0, 0.0), (0.0, -1.0), (-1.0, 0.0), (0.0, 0.0))  # of the actions

PIXELS, MARGIN = 320, 0.1  # of a picture: its sides, and the walls around the room
FLOOR, GRID, WALL = (247, 245, 240), (232, 229, 221), (52, 60, 72)
START, TRAIL, POINT = (176, 184, 196), (120, 165, 215), (33, 102, 172)
REACHED, DESIRED = (71, 160, 97), (236, 134, 44)


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
        color = REACHED if reached else DESIRED
        paint_disc(picture, self.goal, TOLERANCE, color, 0.25)
        paint_disc(picture, self.goal, 0.02, color)
        paint_disc(picture, self.trail[0], 0.03, START)
        for i, position in enumerate(self.trail):
            paint_disc(picture, position, 0.012, TRAIL, 0.3 + 0.7 * i / len(self.trail))
        paint_disc(picture, self.position, 0.045, (255, 255, 255))
        paint_disc(picture, self.position, 0.035, POINT)
        return picture.round().astype(np.uint8)

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


def empty_room() -> np.ndarray:
    """A picture of the floor and the walls, float [row, column, 3]."""
    picture = np.empty((PIXELS, PIXELS, 3))
    picture[:] = WALL
    first, last = pixel(-1), pixel(1)
    inside = slice(round(first), round(last) + 1)
    picture[inside, inside] = FLOOR
    for line in (-0.5, 0, 0.5):
        at = round(pixel(line))
        picture[at, inside] = picture[inside, at] = GRID
    return picture


def pixel(coordinate: Any) -> Any:
    """The place of a coordinate of the room in a picture, from the left or from below."""
    return (coordinate + 1 + MARGIN) / (2 + 2 * MARGIN) * (PIXELS - 1)


def paint_disc(
    picture: np.ndarray,
    center: np.ndarray,
    radius: float,
    color: tuple[int, int, int],
    opacity: float = 1,
) -> None:
    """Paint a disc with soft edges into a picture; center and radius are those of the room."""
    x, y = pixel(np.asarray(center, float))
    y = PIXELS - 1 - y  # rows count from above
    size = pixel(radius) - pixel(0)
    rows, columns = (
        np.arange(max(0, int(at - size) - 1), min(PIXELS, int(at + size) + 3)) for at in (y, x)
    )
    distance = np.hypot(rows[:, None] - y, columns[None] - x)
    coverage = opacity * np.clip(size - distance + 0.5, 0, 1)[..., None]
    window = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    window += coverage * (np.array(color) - window)


for env_id, options in (("PointRoom-v0", {}), ("PointRoomContinuous-v0", {"continuous": True})):
    gymnasium.register(
        f"etude/{env_id}",
        f"{__name__}:{PointRoomEnv.__name__}",
        max_episode_steps=MAX_STEPS,
        kwargs=options,
    )
