"""A quadrotor in a vertical plane, to hover at the origin on the far side of an obstacle."""

import jax
import jax.numpy as jnp

from etude.dynamics import quadrotor
from etude.dynamics.integration import runge_kutta
from etude.planning.problems.obstacles import Obstacles, distance_to_nearest, penalty
from etude.struct import static, struct
from etude.types import Array


@struct
class Quadrotor:
    """State [6]: position (m, across and up), tilt (rad, to the left), and their rates.

    Control [2]: thrust (N) of the right and the left rotor.
    """

    gravity: float = 9.81  # m/s²
    mass: float = 0.5  # kg
    inertia: float = 0.01  # kg m²
    arm: float = 0.2  # m, from the middle to a rotor
    margin: float = 0.2  # m around an obstacle that costs already
    avoidance: float = 100.0  # cost of a second in the middle of an obstacle
    time_step: float = 0.05  # s
    obstacles: Obstacles = static(((-2.0, 0.1, 0.6),))
    """The body's own size included."""
    horizon: int = static(80)
    low: tuple[float, ...] = static((0.0, 0.0))
    """N."""
    high: tuple[float, ...] = static((6.0, 6.0))

    def derivative(self, state: Array, control: Array) -> Array:
        return quadrotor.derivative(
            state, control, gravity=self.gravity, mass=self.mass, inertia=self.inertia, arm=self.arm
        )

    def dynamics(self, state: Array, control: Array) -> Array:
        return runge_kutta(self.derivative, state, control, self.time_step)

    def hover(self) -> Array:
        """The thrusts [2] that hold it level where it is."""
        return quadrotor.hover(gravity=self.gravity, mass=self.mass)

    def running_cost(self, state: Array, control: Array) -> Array:
        tilt, rates, beyond = state[2], state[3:], control - self.hover()
        return (
            state[:2] @ state[:2]
            + 0.1 * tilt**2
            + 0.1 * rates @ rates
            + 0.1 * beyond @ beyond
            + self.avoidance * penalty(state[:2], self.obstacles, self.margin)
        )

    def cost(self, state: Array, control: Array, time: Array) -> Array:
        return self.time_step * self.running_cost(state, control)

    def final_cost(self, state: Array) -> Array:
        return 50 * state[:3] @ state[:3] + 10 * state[3:] @ state[3:]

    def clearance(self, state: Array) -> Array:
        return distance_to_nearest(state[:2], self.obstacles)

    def initial(self, key: Array) -> Array:
        """At rest, four metres to the left."""
        return jnp.array([-4.0, 0, 0, 0, 0, 0]) + jax.random.uniform(
            key, (6,), minval=-0.5, maxval=0.5
        ).at[2:].multiply(0.2)

    def solved(self, states: Array) -> Array:
        """At the end within 0.1 m of the origin, 0.1 rad of level, 0.3 m/s and rad/s of still;
        every obstacle was cleared."""
        there = (jnp.abs(states[-1]) < jnp.array([0.1, 0.1, 0.1, 0.3, 0.3, 0.3])).all()
        return there & (jax.vmap(self.clearance)(states) >= 0).all()
