"""Parking a car past obstacles: the kinematic bicycle model."""

import jax
import jax.numpy as jnp

from etude.dynamics import car
from etude.dynamics.integration import runge_kutta
from etude.planning.problems.obstacles import Obstacles, distance_to_nearest, obstacle_penalty
from etude.struct import static, struct
from etude.types import Array


@struct
class Car:
    """Drive a car past obstacles and park it at the origin, along the x axis.

    State [4]: position of the rear axle (m), heading (rad, from the x axis) and speed (m/s).
    Control [2]: acceleration (m/s²) and steering angle (rad).
    """

    wheelbase: float = 0.5  # m
    margin: float = 0.2  # m around an obstacle in which the penalty is positive
    avoidance: float = 100.0  # cost per second at the center of an obstacle
    time_step: float = 0.1  # s
    obstacles: Obstacles = static(((-2.0, -0.2, 0.5), (-3.5, 1.2, 0.4)))
    """(x, y, radius) of each obstacle (m), enlarged by the size of the car."""
    horizon: int = static(80)
    low: tuple[float, ...] = static((-2.0, -0.6))
    """Lower bounds of the controls (m/s², rad)."""
    high: tuple[float, ...] = static((2.0, 0.6))
    """Upper bounds of the controls (m/s², rad)."""

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
            + self.avoidance * obstacle_penalty(position, self.obstacles, self.margin)
        )

    def cost(self, state: Array, control: Array, time: Array) -> Array:
        return self.time_step * self.running_cost(state, control)

    def final_cost(self, state: Array) -> Array:
        return 20 * state @ state

    def clearance(self, state: Array) -> Array:
        return distance_to_nearest(state[:2], self.obstacles)

    def initial_state(self, key: Array) -> Array:
        """Sample a state at rest, about five meters from the origin and headed roughly for it."""
        start_range = jnp.array([0.5, 1.0, 0.3, 0.0])
        return jnp.array([-5.0, 0, 0, 0]) + start_range * jax.random.uniform(
            key, (4,), minval=-1, maxval=1
        )

    def is_solved(self, states: Array) -> Array:
        """Whether the car ends within 0.1 m, 0.1 rad and 0.1 m/s of the goal, without collision."""
        return (jnp.abs(states[-1]) < 0.1).all() & (jax.vmap(self.clearance)(states) >= 0).all()
