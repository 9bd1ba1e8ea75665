"""Partially observed environments for recurrent policies; the import registers them with Gymnasium.

etude/CartPoleWithoutVelocity-v1    CartPole-v1 without the two velocities in its observation
"""

import gymnasium
import numpy as np

# indices into CartPole's observation: the cart's position and the pole's angle
POSITIONS = np.array([0, 2])


class HideVelocity(gymnasium.ObservationWrapper):
    """CartPole's position [m] and angle [rad] alone, float32 [2]."""

    def __init__(self, **options):
        super().__init__(
            gymnasium.make("CartPole-v1", disable_env_checker=True, **options).unwrapped
        )
        full_space = self.env.observation_space
        assert isinstance(full_space, gymnasium.spaces.Box)
        self.observation_space = gymnasium.spaces.Box(
            full_space.low[POSITIONS], full_space.high[POSITIONS], dtype=np.float32
        )

    def observation(self, observation):
        return observation[POSITIONS]


gymnasium.register(
    "etude/CartPoleWithoutVelocity-v1", entry_point=HideVelocity, max_episode_steps=500
)
