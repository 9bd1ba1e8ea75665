"""The pendulum swing-up with noise on the action, for Gymnasium; the import registers
etude/NoisyPendulum-v0.

`etude.environments.tasks.noisy_pendulum` is its version in JAX.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.classic_control.pendulum import PendulumEnv

MAX_STEPS = 200
TORQUE_NOISE = 1.0  # N m: standard deviation of the noise, half of the largest torque


class NoisyPendulumEnv(PendulumEnv):
    """Pendulum-v1 whose torque is the action plus normal noise, new at each step.

    The sum is clipped to the largest torque. So no plan is right for long, and only one who looks
    where it led can mend it.
    """

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        torque = action + TORQUE_NOISE * self.np_random.standard_normal(1, np.float32)
        return super().step(torque)


gymnasium.register(
    "etude/NoisyPendulum-v0", f"{__name__}:{NoisyPendulumEnv.__name__}", max_episode_steps=MAX_STEPS
)
