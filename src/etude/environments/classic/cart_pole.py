"""The cart-pole, a pole balanced on a cart, equal step by step to Gymnasium's CartPole-v1."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from etude.dynamics import cart_pole
from etude.environments.protocol import StepResult
from etude.spaces import Box, Discrete
from etude.struct import static, struct
from etude.types import Array


@struct
class CartPole:
    """Keep a pole upright on a cart by pushing the cart to the left (action 0) or to the right (1).

    State and observation, [4]: the cart's position (m) and velocity (m/s), the pole's angle from
    upright (rad) and its rate (rad/s). Reward 1 a step. Terminates when the cart or the pole has
    passed its limit. Barto, Sutton & Anderson, "Neuronlike adaptive elements that can solve
    difficult learning control problems", 1983.
    """

    gravity: float = 9.8  # m/s²
    cart_mass: float = 1.0  # kg
    pole_mass: float = 0.1  # kg
    half_length: float = 0.5  # m, from the joint to the pole's center of mass
    push: float = 10.0  # N, either way
    time_step: float = 0.02  # s
    start: float = 0.05  # each element of the first state is within ± this
    max_position: float = static(2.4)  # m from the center
    max_angle: float = static(math.radians(12))  # rad from upright

    @property
    def observation_space(self) -> Box:
        # twice the limits, so that terminal observations lie inside
        high = tuple(
            np.array(
                [2 * self.max_position, np.inf, 2 * self.max_angle, np.inf], np.float32
            ).tolist()
        )
        return Box((4,), low=tuple(-bound for bound in high), high=high)

    @property
    def action_space(self) -> Discrete:
        return Discrete(2)

    def dynamics(self, state: Array, control: Array) -> Array:
        """The next state [4] under a force `control` [1] (N): one explicit Euler step."""
        derivative = cart_pole.derivative(
            state,
            control,
            gravity=self.gravity,
            cart_mass=self.cart_mass,
            pole_mass=self.pole_mass,
            half_length=self.half_length,
        )
        return state + self.time_step * derivative

    def reset(self, key: Array) -> tuple[Array, Array]:
        state = jax.random.uniform(key, (4,), jnp.float32, -self.start, self.start)
        return state, state

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, StepResult]:
        force = jnp.where(action == 1, self.push, -self.push)
        state = self.dynamics(state, force[None])
        terminated = (jnp.abs(state[0]) > self.max_position) | (jnp.abs(state[2]) > self.max_angle)
        return state, StepResult(state, jnp.float32(1), terminated, jnp.bool_(False))
