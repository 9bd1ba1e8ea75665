"""Hovering with a planar quadrotor, past an obstacle."""

import jax
import jax.numpy as jnp

from etude.dynamics import quadrotor
from etude.dynamics.integration import runge_kutta
from etude.planning.problems.obstacles import Obstacles, distance_to_nearest, obstacle_penalty
from etude.struct import static, struct
from etude.types import Array


@struct
class Quadrotor:
    """Fly past an obstacle and hover at the origin.

    State [6]: position (m, across and up), tilt (rad, to the left), and their rates. Control [2]:
    thrust (N) of the right and the left rotor.
    """

    gravity: float = 9.81  # m/s²
    mass: float = 0.5  # kg
    inertia: float = 0.01  # kg m²
    arm: float = 0.2  # m, from the center of mass to a rotor
    margin: float = 0.2  # m around an obstacle in which the penalty is positive
    avoidance: float = 100.0  # cost per second at the center of an obstacle
    time_step: float = 0.05  # s
    obstacles: Obstacles = static(((-2.0, 0.1, 0.6),))
    """(x, z, radius) of each obstacle (m), enlarged by the size of the quadrotor."""
    horizon: int = static(80)
    low: tuple[float, ...] = static((0.0, 0.0))
    """Lower bounds of the thrusts (N)."""
    high: tuple[float, ...] = static((6.0, 6.0))
    """Upper bounds of the thrusts (N)."""

    def derivative(self, state: Array, control: Array) -> Array:
        return quadrotor.derivative(
            state, control, gravity=self.gravity, mass=self.mass, inertia=self.inertia, arm=self.arm
        )

    def dynamics(self, state: Array, control: Array) -> Array:
        return runge_kutta(self.derivative, state, control, self.time_step)

    def hover(self) -> Array:
        """Return the thrusts [2] that keep the quadrotor level and in place."""
        return quadrotor.hover(gravity=self.gravity, mass=self.mass)

    def running_cost(self, state: Array, control: Array) -> Array:
        tilt, rates, excess_thrust = state[2], state[3:], control - self.hover()
        return (
            state[:2] @ state[:2]
            + 0.1 * tilt**2
            + 0.1 * rates @ rates
            + 0.1 * excess_thrust @ excess_thrust
            + self.avoidance * obstacle_penalty(state[:2], self.obstacles, self.margin)
        )

    def cost(self, state: Array, control: Array, time: Array) -> Array:
        return self.time_step * self.running_cost(state, control)

    def final_cost(self, state: Array) -> Array:
        return 50 * state[:3] @ state[:3] + 10 * state[3:] @ state[3:]

    def clearance(self, state: Array) -> Array:
        return distance_to_nearest(state[:2], self.obstacles)

    def initial_state(self, key: Array) -> Array:
        """Sample a state about four meters to the left, nearly level and at rest."""
        return jnp.array([-4.0, 0, 0, 0, 0, 0]) + jax.random.uniform(
            key, (6,), minval=-0.5, maxval=0.5
        ).at[2:].multiply(0.2)

    def is_solved(self, states: Array) -> Array:
        """Whether it ends within 0.1 m, 0.1 rad, 0.3 m/s and 0.3 rad/s of hovering at the origin.

        A collision with an obstacle on the way counts as not solved.
        """
        at_goal = (jnp.abs(states[-1]) < jnp.array([0.1, 0.1, 0.1, 0.3, 0.3, 0.3])).all()
        return at_goal & (jax.vmap(self.clearance)(states) >= 0).all()
