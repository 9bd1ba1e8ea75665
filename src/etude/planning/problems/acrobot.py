"""Acrobot swing-up: two links with a motor between them (Spong, 1995), Gymnasium's constants."""

import math

import jax
import jax.numpy as jnp

from etude.dynamics import acrobot
from etude.dynamics.integration import runge_kutta
from etude.struct import static, struct
from etude.types import Array


@struct
class AcrobotSwingUp:
    """Swing the acrobot up and hold both links upright.

    State [4]: the first link's angle from upright, the second's from the first (rad, not wrapped),
    and their rates (rad/s). Control [1]: the torque between the links (N m). Both links have the
    constants of Gymnasium's Acrobot-v1.
    """

    gravity: float = 9.8  # m/s²
    mass: float = 1.0  # kg, of each link
    length: float = 1.0  # m, of each link; the center of mass is in the middle
    inertia: float = 1.0  # kg m², about the center of mass
    time_step: float = 0.05  # s
    effort: float = 0.05  # weight of the squared torque in the running cost, per (N m)² s
    start_range: float = 0.1  # rad, rad/s: initial elements are within ± this of hanging at rest
    horizon: int = static(120)
    low: tuple[float, ...] = static((-20.0,))  # N m
    high: tuple[float, ...] = static((20.0,))

    def derivative(self, state: Array, control: Array) -> Array:
        return acrobot.derivative_from_upright(
            state,
            control,
            gravity=self.gravity,
            mass=self.mass,
            length=self.length,
            inertia=self.inertia,
        )

    def dynamics(self, state: Array, control: Array) -> Array:
        return runge_kutta(self.derivative, state, control, self.time_step)

    def running_cost(self, state: Array, control: Array) -> Array:
        angle_1, angle_2 = state[:2]
        return (
            2 * (1 - jnp.cos(angle_1))
            + 2 * (1 - jnp.cos(angle_2))
            + 0.05 * state[2:] @ state[2:]
            + self.effort * control @ control
        )

    def cost(self, state: Array, control: Array, time: Array) -> Array:
        return self.time_step * self.running_cost(state, control)

    def final_cost(self, state: Array) -> Array:
        return 200 * (2 - jnp.cos(state[0]) - jnp.cos(state[1])) + 20 * state[2:] @ state[2:]

    def initial_state(self, key: Array) -> Array:
        return jnp.array([math.pi, 0, 0, 0]) + jax.random.uniform(
            key, (4,), minval=-self.start_range, maxval=self.start_range
        )

    def is_solved(self, states: Array) -> Array:
        """Whether both links end within 0.1 rad of upright and 0.5 rad/s of rest."""
        return (jnp.cos(states[-1, :2]) > math.cos(0.1)).all() & (
            jnp.abs(states[-1, 2:]) < 0.5
        ).all()
