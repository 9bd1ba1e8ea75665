"""The double integrator: a frictionless block to bring to rest at the origin by a force."""

import jax
import jax.numpy as jnp

from etude.dynamics import double_integrator
from etude.struct import static, struct
from etude.types import Array


@struct
class DoubleIntegrator:
    """Bring the block to rest at the origin.

    State [2]: position (m) and velocity (m/s). Control [1]: force (N). Dynamics are linear and
    costs quadratic, so without the bounds of the force LQR solves it exactly.
    """

    mass: float = 1.0  # kg
    effort: float = 0.1  # weight of the squared force in the running cost, per N² s
    time_step: float = 0.1  # s
    start_range: float = 2.0  # m, m/s: initial position and velocity are within ± this
    horizon: int = static(80)
    low: tuple[float, ...] = static((-2.0,))  # N
    high: tuple[float, ...] = static((2.0,))

    def derivative(self, state: Array, control: Array) -> Array:
        return double_integrator.derivative(state, control, mass=self.mass)

    def dynamics(self, state: Array, control: Array) -> Array:
        """Return the next state, exact for a constant force during the step."""
        return double_integrator.next_state(
            state, control, mass=self.mass, time_step=self.time_step
        )

    def running_cost(self, state: Array, control: Array) -> Array:
        return state @ state + self.effort * control @ control

    def cost(self, state: Array, control: Array, time: Array) -> Array:
        return self.time_step * self.running_cost(state, control)

    def final_cost(self, state: Array) -> Array:
        return 10 * state @ state

    def initial_state(self, key: Array) -> Array:
        return jax.random.uniform(key, (2,), minval=-self.start_range, maxval=self.start_range)

    def is_solved(self, states: Array) -> Array:
        """Whether the block ends within 0.05 m and 0.05 m/s of rest at the origin."""
        return (jnp.abs(states[-1]) < 0.05).all()
