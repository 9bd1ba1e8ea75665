"""Environments of which a part is not seen, for policies with a memory; importing this registers
them with Gymnasium.

    etude/CartPoleWithoutVelocity-v1    CartPole-v1, of whose observation the two velocities are
    left out
"""

import gymnasium
import numpy as np

POSITIONS = np.array([0, 2])  # of CartPole's observation: the cart's position and the pole's angle


class HideVelocity(gymnasium.ObservationWrapper):
    """CartPole's position [m] and angle [rad] alone, float32 [2]."""

    def __init__(self, **options):
        super().__init__(
            gymnasium.make("CartPole-v1", disable_env_checker=True, **options).unwrapped
        )
        whole = self.env.observation_space
        assert isinstance(whole, gymnasium.spaces.Box)
        self.observation_space = gymnasium.spaces.Box(
            whole.low[POSITIONS], whole.high[POSITIONS], dtype=np.float32
        )

    def observation(self, observation):
        return observation[POSITIONS]


gymnasium.register(
    "etude/CartPoleWithoutVelocity-v1", entry_point=HideVelocity, max_episode_steps=500
)
