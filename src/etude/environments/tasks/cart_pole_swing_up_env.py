"""The cart-pole swing-up, for Gymnasium; the import registers etude/CartPoleSwingUp-v0.

`etude.environments.tasks.cart_pole_swing_up` describes the task and is its version in JAX.
"""

import math
from typing import Any

import gymnasium
import numpy as np

from etude.environments.tasks.picture import FLOOR, GRID, POINT, SUCCESS, WALL, WHITE, Picture

GRAVITY, CART_MASS, POLE_MASS, HALF_LENGTH = 9.8, 1.0, 0.1, 0.5  # m/s², kg, kg, m: CartPole-v1's
MAX_FORCE = 10.0  # N, of an action of 1
TIME_STEP = 0.05  # s
START_RANGE = 0.2  # m, m/s, rad, rad/s: each element of the first state is within ± this of rest
POSITION_COST, VELOCITY_COST, RATE_COST, FORCE_COST = 0.1, 0.01, 0.01, 0.1
MAX_STEPS = 100


class CartPoleSwingUpEnv(gymnasium.Env):
    """Swing the pole up; see `etude.environments.tasks.cart_pole_swing_up.CartPoleSwingUpTask`."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode
        high = np.array([np.inf, np.inf, 1, 1, np.inf], np.float32)
        self.observation_space = gymnasium.spaces.Box(-high, high)
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self.state = np.array([0, 0, math.pi, 0], np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        spread = self.np_random.uniform(-START_RANGE, START_RANGE, 4).astype(np.float32)
        self.state = np.array([0, 0, math.pi, 0], np.float32) + spread
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        control = float(np.clip(np.float32(action[0]), -1, 1))
        position, velocity, angle, rate = self.state.astype(float)
        cost = (
            1
            - math.cos(angle)
            + POSITION_COST * position**2
            + VELOCITY_COST * velocity**2
            + RATE_COST * rate**2
            + FORCE_COST * control**2
        )
        state = self.state.astype(float)
        k1 = cart_pole_derivative(state, MAX_FORCE * control)
        k2 = cart_pole_derivative(state + TIME_STEP / 2 * k1, MAX_FORCE * control)
        k3 = cart_pole_derivative(state + TIME_STEP / 2 * k2, MAX_FORCE * control)
        k4 = cart_pole_derivative(state + TIME_STEP * k3, MAX_FORCE * control)
        self.state = (state + TIME_STEP / 6 * (k1 + 2 * k2 + 2 * k3 + k4)).astype(np.float32)
        return self._observe(), -cost, False, False, {}

    def render(self) -> np.ndarray | None:
        """Return a picture [row, column, 3], from the side; None without a render mode."""
        if self.render_mode is None:
            return None
        position, _, angle, _ = self.state
        is_upright = math.cos(angle) > math.cos(0.2)
        picture = Picture((-3, 3), (-1.3, 1.3), color=FLOOR)
        picture.rectangle((-3, -0.01), (3, 0.01), GRID)
        picture.rectangle((position - 0.25, -0.1), (position + 0.25, 0.1), WALL)
        tip = position + 2 * HALF_LENGTH * math.sin(angle), 2 * HALF_LENGTH * math.cos(angle)
        picture.line((position, 0), tip, 0.08, SUCCESS if is_upright else POINT)
        picture.disc((position, 0), 0.05, WHITE)
        return picture.to_uint8()

    def _observe(self) -> np.ndarray:
        position, velocity, angle, rate = self.state
        return np.array([position, velocity, np.cos(angle), np.sin(angle), rate], np.float32)


def cart_pole_derivative(state: np.ndarray, force: float) -> np.ndarray:
    """(ẋ, ẍ, θ̇, θ̈), [4], of `etude.dynamics.cart_pole`, which says the equations."""
    _, velocity, angle, rate = state
    sine, cosine = math.sin(angle), math.cos(angle)
    mass, moment = CART_MASS + POLE_MASS, POLE_MASS * HALF_LENGTH
    drive = (force + moment * rate**2 * sine) / mass
    angular_acceleration = (GRAVITY * sine - cosine * drive) / (
        HALF_LENGTH * (4 / 3 - POLE_MASS * cosine**2 / mass)
    )
    acceleration = drive - moment * angular_acceleration * cosine / mass
    return np.array([velocity, acceleration, rate, angular_acceleration])


gymnasium.register(
    "etude/CartPoleSwingUp-v0",
    f"{__name__}:{CartPoleSwingUpEnv.__name__}",
    max_episode_steps=MAX_STEPS,
)
