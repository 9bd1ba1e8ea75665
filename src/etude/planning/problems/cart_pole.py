"""Cart-pole swing-up and balancing by a force on the cart (Barto, Sutton & Anderson, 1983)."""

import math

import jax
import jax.numpy as jnp

from etude.dynamics import cart_pole
from etude.dynamics.integration import runge_kutta
from etude.struct import static, struct
from etude.types import Array


@struct
class CartPoleSwingUp:
    """Bring the cart to rest in the middle with the pole upright.

    State [4]: the cart's position (m) and velocity (m/s), the pole's angle from upright (rad) and
    its rate (rad/s). Control [1]: force (N). Constants are those of Gymnasium's CartPole-v1. The
    pole hangs at first; CartPoleSwingUp(start_angle=0.0, start_range=0.05, horizon=40) balances it
    from Gymnasium's initial states instead.
    """

    gravity: float = 9.8  # m/s²
    cart_mass: float = 1.0  # kg
    pole_mass: float = 0.1  # kg
    half_length: float = 0.5  # m, from the joint to the pole's center of mass
    time_step: float = 0.05  # s
    effort: float = 0.1  # weight of the squared force in the running cost, per N² s
    start_angle: float = math.pi  # rad, initial angle of the pole
    start_range: float = 0.2  # m, m/s, rad, rad/s: initial elements are within ± this of the start
    horizon: int = static(80)
    low: tuple[float, ...] = static((-10.0,))  # N
    high: tuple[float, ...] = static((10.0,))

    def derivative(self, state: Array, control: Array) -> Array:
        return cart_pole.derivative(
            state,
            control,
            gravity=self.gravity,
            cart_mass=self.cart_mass,
            pole_mass=self.pole_mass,
            half_length=self.half_length,
        )

    def dynamics(self, state: Array, control: Array) -> Array:
        return runge_kutta(self.derivative, state, control, self.time_step)

    def running_cost(self, state: Array, control: Array) -> Array:
        position, velocity, angle, rate = state
        return (
            position**2
            + 2 * (1 - jnp.cos(angle))
            + 0.1 * velocity**2
            + 0.1 * rate**2
            + self.effort * control @ control
        )

    def cost(self, state: Array, control: Array, time: Array) -> Array:
        return self.time_step * self.running_cost(state, control)

    def final_cost(self, state: Array) -> Array:
        position, velocity, angle, rate = state
        return 100 * (position**2 + 2 * (1 - jnp.cos(angle))) + 10 * (velocity**2 + rate**2)

    def initial_state(self, key: Array) -> Array:
        return jnp.array([0, 0, self.start_angle, 0]) + jax.random.uniform(
            key, (4,), minval=-self.start_range, maxval=self.start_range
        )

    def is_solved(self, states: Array) -> Array:
        """Whether the pole ends within 0.1 rad and 0.5 rad/s of rest upright.

        The cart must end within 0.1 m and 0.5 m/s of rest in the middle.
        """
        position, velocity, angle, rate = states[-1]
        upright = (jnp.cos(angle) > math.cos(0.1)) & (jnp.abs(rate) < 0.5)
        return upright & (jnp.abs(position) < 0.1) & (jnp.abs(velocity) < 0.5)
