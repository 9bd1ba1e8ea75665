"""The cart-pole under a continuous force, for Gymnasium; the import registers
etude/CartPoleContinuous-v0.

`etude.environments.classic.cart_pole.ContinuousCartPole` describes it and is its version in JAX.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

MAX_STEPS = 200


class ContinuousCartPoleEnv(CartPoleEnv):
    """Gymnasium's CartPole, pushed by `push` · action; it draws itself as CartPole does."""

    def __init__(self, render_mode: str | None = None):
        super().__init__(render_mode=render_mode)
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self.push = self.force_mag  # N, of an action of 1

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.force_mag = self.push * float(action[0])
        return super().step(np.ones(1, np.float32))  # CartPole's 1: `force_mag` to the right


gymnasium.register(
    "etude/CartPoleContinuous-v0",
    f"{__name__}:{ContinuousCartPoleEnv.__name__}",
    max_episode_steps=MAX_STEPS,
)
