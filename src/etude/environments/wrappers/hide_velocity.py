"""Partially observed environments for recurrent policies; the import registers them with Gymnasium.

etude/CartPoleWithoutVelocity-v1    CartPole-v1 without the two velocities in its observation
etude/PendulumWithoutVelocity-v1    Pendulum-v1 without the rate in its observation

`etude.environments.classic` has their versions in JAX.
"""

import gymnasium
import numpy as np

# Gymnasium id -> the elements of its observation that are no velocities
POSITIONS: dict[str, tuple[int, ...]] = {
    "CartPole-v1": (0, 2),  # the cart's position (m), the pole's angle (rad)
    "Pendulum-v1": (0, 1),  # cosine and sine of the angle
}


class HideVelocity(gymnasium.ObservationWrapper):
    """The Gymnasium environment `hidden` with its `POSITIONS` alone as observation, float32."""

    def __init__(self, hidden: str, **options):
        super().__init__(gymnasium.make(hidden, disable_env_checker=True, **options).unwrapped)
        self.positions = np.array(POSITIONS[hidden])
        full_space = self.env.observation_space
        assert isinstance(full_space, gymnasium.spaces.Box)
        self.observation_space = gymnasium.spaces.Box(
            full_space.low[self.positions], full_space.high[self.positions], dtype=np.float32
        )

    def observation(self, observation):
        return observation[self.positions]


for hidden in POSITIONS:
    name, version = hidden.split("-")
    gymnasium.register(
        f"etude/{name}WithoutVelocity-{version}",
        entry_point=f"{__name__}:{HideVelocity.__name__}",
        max_episode_steps=gymnasium.spec(hidden).max_episode_steps,
        kwargs={"hidden": hidden},
    )
