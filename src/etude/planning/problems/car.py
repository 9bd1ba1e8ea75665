"""A car to be driven past obstacles and parked at the origin: the kinematic bicycle."""

import jax
import jax.numpy as jnp

from etude.dynamics import car
from etude.dynamics.integration import runge_kutta
from etude.planning.problems.obstacles import Obstacles, distance_to_nearest, penalty
from etude.struct import static, struct
from etude.types import Array


@struct
class Car:
    """State [4]: position of the rear axle (m), heading (rad, from the x axis) and speed (m/s).

    Control [2]: acceleration (m/s²) and steering angle (rad).
    """

    wheelbase: float = 0.5  # m
    margin: float = 0.2  # m around an obstacle that costs already
    avoidance: float = 100.0  # cost of a second in the middle of an obstacle
    time_step: float = 0.1  # s
    obstacles: Obstacles = static(((-2.0, -0.2, 0.5), (-3.5, 1.2, 0.4)))
    """The car's own size included."""
    horizon: int = static(80)
    low: tuple[float, ...] = static((-2.0, -0.6))
    """m/s², rad."""
    high: tuple[float, ...] = static((2.0, 0.6))

    def derivative(self, state: Array, control: Array) -> Array:
        return car.derivative(state, control, wheelbase=self.wheelbase)

    def dynamics(self, state: Array, control: Array) -> Array:
        return runge_kutta(self.derivative, state, control, self.time_step)

    def running_cost(self, state: Array, control: Array) -> Array:
        position, heading, speed = state[:2], state[2], state[3]
        return (
            position @ position
            + 0.1 * heading**2
            + 0.1 * speed**2
            + 0.1 * control @ control
            + self.avoidance * penalty(position, self.obstacles, self.margin)
        )

    def cost(self, state: Array, control: Array, time: Array) -> Array:
        return self.time_step * self.running_cost(state, control)

    def final_cost(self, state: Array) -> Array:
        return 20 * state @ state

    def clearance(self, state: Array) -> Array:
        return distance_to_nearest(state[:2], self.obstacles)

    def initial(self, key: Array) -> Array:
        """At rest, five metres away, headed for the origin more or less."""
        spread = jnp.array([0.5, 1.0, 0.3, 0.0])
        return jnp.array([-5.0, 0, 0, 0]) + spread * jax.random.uniform(
            key, (4,), minval=-1, maxval=1
        )

    def solved(self, states: Array) -> Array:
        """At the end within 0.1 m, 0.1 rad and 0.1 m/s of rest at the origin along the x axis;
        every obstacle was cleared."""
        return (jnp.abs(states[-1]) < 0.1).all() & (jax.vmap(self.clearance)(states) >= 0).all()
