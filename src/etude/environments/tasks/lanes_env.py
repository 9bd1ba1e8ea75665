"""A car with three cameras on a winding road, for Gymnasium; the import registers etude/Lanes-v0.

`etude.environments.tasks.lanes` describes the task and is its version in JAX.

The expert (`etude.algorithms.control.heuristic`) steers along the arc of a circle to a point of the
lane's middle (pure pursuit; Coulter, "Implementation of the Pure Pursuit Path Tracking Algorithm",
1992). Where the middle, 5 m ahead, is ℓ m to the left of where the car looks, that arc has the
curvature

    κ(ℓ) = 2 ℓ / (ℓ² + 5²)

From a camera that stands d m to the left of the car's center and looks the same way, the same
middle is at ℓ - d. It sees what a car in its place would see, and that car should take the
curvature κ(ℓ - d). So the steering for its picture differs from the expert's by the correction
[κ(ℓ - d) - κ(ℓ)] / 0.15, in units of the action; for small ℓ it is about -2 d / 5² / 0.15, which is
-0.37 for the left camera and 0.37 for the right one.
"""

import itertools
from typing import Any

import gymnasium
import numpy as np

from etude.environments.tasks.picture import FAILURE, POINT, TRAIL, WALL, WHITE, Picture

SPEED = 1.0  # m of a step
MAX_CURVATURE = 0.15  # 1/m, of an action of 1
HALF_WIDTH = 1.5  # m, of the lane
WAVELENGTHS, AMPLITUDES = (60.0, 31.0), (2.0, 1.0)  # m, of the waves that make the road
GUST_PROBABILITY, GUST = 0.01, 1.0  # of a step; m, the largest displacement to a side
LOOK_AHEAD = 5.0  # m, of the point that the expert steers to
CAMERA_OFFSET = 0.7  # m, of a side camera from the middle of the car
# m ahead, of the rows of a picture from the nearest on: even steps of 1 / distance, as in a camera
DISTANCES = tuple(20 / (10 - row) for row in range(9))
COLUMNS = 20  # of a picture, which is as wide as it is far ahead, to each side
NEWTON_STEPS = 4
MAX_STEPS = 200
GRASS, ROAD = (188, 205, 170), (112, 118, 126)  # colors of a picture from above


class LanesEnv(gymnasium.Env):
    """Keep a car in its lane; see `etude.environments.tasks.lanes.Lanes`.

    Args:
        gust_probability: probability that a gust displaces the car in a step.
        render_mode: "rgb_array" or None.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, gust_probability: float = GUST_PROBABILITY, render_mode: str | None = None):
        self.gust_probability, self.render_mode = gust_probability, render_mode
        shape = (len(DISTANCES), COLUMNS)
        self.observation_space = gymnasium.spaces.Box(0, 1, shape, np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self.phases = np.zeros(len(WAVELENGTHS))  # of the waves of the road
        self.position, self.heading = np.zeros(2), 0.0
        self.trail = [self.position]  # the positions of the episode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.phases = self.np_random.uniform(0, 2 * np.pi, len(WAVELENGTHS))
        y, slope = road(self.phases, np.array(0.0))
        self.position, self.heading = np.array([0, y]), float(np.arctan(slope))
        self.trail = [self.position]
        return self._observe(), self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        gust = GUST * self.np_random.uniform(-1, 1)
        gust *= self.np_random.random() < self.gust_probability
        turn = SPEED * MAX_CURVATURE * float(np.clip(action[0], -1, 1))
        along = self.heading + turn / 2
        self.position = self.position + SPEED * np.array([np.cos(along), np.sin(along)])
        self.heading += turn
        self.position = self.position + gust * self._left()
        self.trail.append(self.position)
        info = self._info()
        is_out = not info["is_success"]
        return self._observe(), SPEED * (not is_out), is_out, False, info

    def side_views(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """What the side cameras see now, "left" and "right".

        Returns:
            (observation, correction) of each, where the correction [1] is what to add to the
            steering for the picture of the middle; the head of this module derives it.
        """
        ahead = np.array([LOOK_AHEAD])
        curvature = pursuit_curvature(self._middle(ahead))
        views = {}
        for side, offset in (("left", CAMERA_OFFSET), ("right", -CAMERA_OFFSET)):
            corrected = pursuit_curvature(self._middle(ahead, offset))
            correction = (corrected - curvature) / MAX_CURVATURE
            views[side] = (self._observe(offset), correction.astype(np.float32))
        return views

    def render(self) -> np.ndarray | None:
        """Return a picture [row, column, 3], from above; None without a render mode.

        The car goes from the left to the right, so left is up. The dots beside it are its side
        cameras; above is what the middle one sees, the nearest row at the bottom.
        """
        if self.render_mode is None:
            return None
        x, y = self.position
        picture = Picture((x - 8, x + 16), (y - 7, y + 9), 360, GRASS)
        at = np.arange(x - 10, x + 19)
        middle = np.stack([at, road(self.phases, at)[0]], 1)
        for thickness, color in ((2 * HALF_WIDTH + 0.4, WHITE), (2 * HALF_WIDTH, ROAD)):
            for first, second in itertools.pairwise(middle):
                picture.line(first, second, thickness, color)
        for first, second in itertools.pairwise(self.trail[-9:]):
            picture.line(first, second, 0.15, TRAIL)
        forward = np.array([np.cos(self.heading), np.sin(self.heading)])
        back, front = self.position - 1.2 * forward, self.position + 0.3 * forward
        picture.line(back, front, 1.0, POINT if self._info()["is_success"] else FAILURE)
        for offset in (-CAMERA_OFFSET, 0, CAMERA_OFFSET):
            picture.disc(self.position + offset * self._left(), 0.13, WALL)
        self._draw_view(picture)
        return picture.to_uint8()

    def _draw_view(self, picture: Picture) -> None:
        """Draw what the middle camera sees in the upper right corner."""
        x, y = self.position
        size = 0.33
        for row, brightness in enumerate(self._observe()):
            for column, value in enumerate(brightness):
                gray = round(60 + 195 * float(value))
                left, bottom = x + 9 + size * column, y + 5.5 + size * row
                picture.rectangle((left, bottom), (left + size, bottom + size), (gray, gray, gray))

    def _left(self) -> np.ndarray:
        """The direction to the left of the car, [2]."""
        return np.array([-np.sin(self.heading), np.cos(self.heading)])

    def _middle(self, distances: np.ndarray, offset: float = 0) -> np.ndarray:
        """How far to the left the lane's middle is, m, at distances ahead of a camera, [distance].

        The camera is `offset` m to the left of the car. Newton's method finds where the line across
        meets the road.
        """
        x, y = self.position + offset * self._left()
        cos, sin = np.cos(self.heading), np.sin(self.heading)
        lateral = np.zeros_like(distances)
        for _ in range(NEWTON_STEPS):
            middle, slope = road(self.phases, x + distances * cos - lateral * sin)
            error = y + distances * sin + lateral * cos - middle
            lateral = lateral - error / (cos + slope * sin)
        return lateral

    def _observe(self, offset: float = 0) -> np.ndarray:
        return lane_picture(self._middle(np.array(DISTANCES), offset)).astype(np.float32)

    def _info(self) -> dict[str, Any]:
        return {"is_success": bool(np.abs(self._middle(np.zeros(1)))[0] <= HALF_WIDTH)}


def road(phases: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The y of the lane's middle at x, and its slope, [...] each; phases are [wave]."""
    angular = 2 * np.pi / np.array(WAVELENGTHS)
    angles, amplitudes = angular * x[..., None] + phases, np.array(AMPLITUDES)
    slope = (amplitudes * angular * np.cos(angles)).sum(-1)
    return (amplitudes * np.sin(angles)).sum(-1), slope


def pursuit_curvature(lateral: np.ndarray) -> np.ndarray:
    """κ = 2 ℓ / (ℓ² + 5²): the curvature, 1/m, of the arc to a point 5 m ahead and ℓ m left."""
    return 2 * lateral / (lateral**2 + LOOK_AHEAD**2)


def lane_picture(middle: np.ndarray) -> np.ndarray:
    """The brightness, 0 to 1, of a picture [row, column] with the lane's middle at `middle` [row].

    The two lines of the lane are half its width to each side of the middle. A line between the
    centers of two pixels lights both, the nearer one more, and together by 1.
    """
    pixel = 2 * np.array(DISTANCES)[:, None] / COLUMNS  # m, its width
    left_to_right = (COLUMNS - 1) / 2 - np.arange(COLUMNS)
    position = left_to_right * pixel  # m to the left, of the centers
    lines = middle[:, None] - HALF_WIDTH, middle[:, None] + HALF_WIDTH
    right, left = (np.maximum(1 - np.abs(position - line) / pixel, 0) for line in lines)
    return right + left


gymnasium.register("etude/Lanes-v0", f"{__name__}:{LanesEnv.__name__}", max_episode_steps=MAX_STEPS)
