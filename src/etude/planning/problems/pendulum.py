"""Pendulum swing-up with a torque too weak to lift it directly (Doya, 2000)."""

import math

import jax
import jax.numpy as jnp

from etude.dynamics import pendulum
from etude.struct import static, struct
from etude.types import Array


@struct
class PendulumSwingUp:
    """Swing the pendulum up and hold it upright.

    State [2]: the angle from upright (rad, not wrapped) and its rate (rad/s). Control [1]: torque
    (N m). The dynamics are those of Gymnasium's Pendulum-v1. The cost is smooth, where Gymnasium's
    has a cusp for the hanging pendulum.
    """

    gravity: float = 10.0  # m/s²
    mass: float = 1.0  # kg
    length: float = 1.0  # m, of a uniform rod
    time_step: float = 0.05  # s
    effort: float = 0.05  # weight of the squared torque in the running cost, per (N m)² s
    start_angle: float = math.pi  # rad: the initial angle is within ± this
    start_rate: float = 1.0  # rad/s: the initial rate is within ± this
    max_rate: float = 8.0  # rad/s, bound of the rate
    horizon: int = static(100)
    low: tuple[float, ...] = static((-2.0,))  # N m
    high: tuple[float, ...] = static((2.0,))

    def derivative(self, state: Array, control: Array) -> Array:
        """Return dx/dt without the bound of the rate."""
        return pendulum.derivative(
            state, control, gravity=self.gravity, mass=self.mass, length=self.length
        )

    def dynamics(self, state: Array, control: Array) -> Array:
        """Take one step of semi-implicit Euler."""
        angle, rate = state
        rate = jnp.clip(
            rate + self.time_step * self.derivative(state, control)[1],
            -self.max_rate,
            self.max_rate,
        )
        return jnp.stack([angle + self.time_step * rate, rate])

    def running_cost(self, state: Array, control: Array) -> Array:
        angle, rate = state
        return 2 * (1 - jnp.cos(angle)) + 0.1 * rate**2 + self.effort * control @ control

    def cost(self, state: Array, control: Array, time: Array) -> Array:
        return self.time_step * self.running_cost(state, control)

    def final_cost(self, state: Array) -> Array:
        angle, rate = state
        return 50 * (1 - jnp.cos(angle)) + 5 * rate**2

    def initial_state(self, key: Array) -> Array:
        angle, rate = jax.random.uniform(key, (2,), minval=-1, maxval=1)
        return jnp.stack([self.start_angle * angle, self.start_rate * rate])

    def is_solved(self, states: Array) -> Array:
        """Whether the pendulum ends within 0.1 rad and 0.5 rad/s of rest upright."""
        angle, rate = states[-1]
        return (jnp.cos(angle) > math.cos(0.1)) & (jnp.abs(rate) < 0.5)
