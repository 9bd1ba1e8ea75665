"""The pendulum swing-up, equal step by step to Gymnasium's Pendulum-v1."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from etude.dynamics import pendulum
from etude.environments.protocol import StepResult
from etude.spaces import Box
from etude.struct import static, struct
from etude.types import Array


@struct
class Pendulum:
    """Swing a rod up and hold it, with a torque (action [1], N m) too weak to lift it directly.

    State [2]: the angle from upright (rad, not wrapped) and its rate (rad/s). Observation [3]: the
    cosine and the sine of the angle, and the rate. Reward −(angle² + 0.1 rate² + 0.001 torque²), of
    the state before the step, with the angle wrapped to [−π, π). Never terminates.
    The task of Doya, "Reinforcement learning in continuous time and space", 2000, with Gymnasium's
    constants.
    """

    gravity: float = 10.0  # m/s²
    mass: float = 1.0  # kg
    length: float = 1.0  # m, of a uniform rod
    time_step: float = 0.05  # s
    start_angle: float = math.pi  # rad: the first angle is within ± this
    start_rate: float = 1.0  # rad/s: and its rate within ± this
    max_rate: float = static(8.0)  # rad/s
    max_torque: float = static(2.0)  # N m

    @property
    def observation_space(self) -> Box:
        high = (1.0, 1.0, float(np.float32(self.max_rate)))
        return Box((3,), low=tuple(-bound for bound in high), high=high)

    @property
    def action_space(self) -> Box:
        bound = float(np.float32(self.max_torque))
        return Box((1,), low=-bound, high=bound)

    def dynamics(self, state: Array, control: Array) -> Array:
        """The next state [2] under a torque `control` [1] (N m): one semi-implicit Euler step.

        The torque is not clipped here.
        """
        angle, rate = state
        acceleration = pendulum.acceleration(
            angle, control, gravity=self.gravity, mass=self.mass, length=self.length
        )
        rate = jnp.clip(rate + self.time_step * acceleration, -self.max_rate, self.max_rate)
        return jnp.stack([angle + self.time_step * rate, rate])

    def observe(self, state: Array) -> Array:
        """Return the observation [3] of a state [2]."""
        angle, rate = state
        return jnp.stack([jnp.cos(angle), jnp.sin(angle), rate])

    def reset(self, key: Array) -> tuple[Array, Array]:
        angle, rate = jax.random.uniform(key, (2,), jnp.float32, -1, 1)
        state = jnp.stack([self.start_angle * angle, self.start_rate * rate])
        return state, self.observe(state)

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, StepResult]:
        next_state = self.dynamics(state, self._torque(action))
        reward, terminated = self.reward(state, action, next_state), self.terminates(next_state)
        return next_state, StepResult(
            self.observe(next_state), reward, terminated, jnp.bool_(False)
        )

    def reward(self, state: Array, action: Array, next_state: Array) -> Array:
        angle, rate = state
        return -(wrap(angle) ** 2 + 0.1 * rate**2 + 0.001 * self._torque(action)[0] ** 2)

    def terminates(self, next_state: Array) -> Array:
        return jnp.bool_(False)

    def _torque(self, action: Array) -> Array:
        return jnp.clip(action, -self.max_torque, self.max_torque)


def wrap(angle: Array) -> Array:
    """The same angle in [−π, π) (rad); its derivative is 1."""
    return (angle + math.pi) % (2 * math.pi) - math.pi
