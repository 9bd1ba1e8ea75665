"""The double integrator: a block pushed along a line without friction, to rest at the origin."""

import jax
import jax.numpy as jnp

from etude.dynamics import double_integrator
from etude.struct import static, struct
from etude.types import Array


@struct
class DoubleIntegrator:
    """State [2]: position (m) and velocity (m/s); control [1]: force (N).

    The only problem here that is linear and quadratic, but for the bounds of its force.
    """

    mass: float = 1.0  # kg
    effort: float = 0.1  # cost of a N² for a second
    time_step: float = 0.1  # s
    start: float = 2.0  # m, m/s: both are first within ± this
    horizon: int = static(80)
    low: tuple[float, ...] = static((-2.0,))  # N
    high: tuple[float, ...] = static((2.0,))

    def derivative(self, state: Array, control: Array) -> Array:
        return double_integrator.derivative(state, control, mass=self.mass)

    def dynamics(self, state: Array, control: Array) -> Array:
        """Exact for a force that is held."""
        return double_integrator.next_state(
            state, control, mass=self.mass, time_step=self.time_step
        )

    def running_cost(self, state: Array, control: Array) -> Array:
        return state @ state + self.effort * control @ control

    def cost(self, state: Array, control: Array, time: Array) -> Array:
        return self.time_step * self.running_cost(state, control)

    def final_cost(self, state: Array) -> Array:
        return 10 * state @ state

    def initial(self, key: Array) -> Array:
        return jax.random.uniform(key, (2,), minval=-self.start, maxval=self.start)

    def solved(self, states: Array) -> Array:
        """At the end within 0.05 m and 0.05 m/s of rest at the origin."""
        return (jnp.abs(states[-1]) < 0.05).all()
