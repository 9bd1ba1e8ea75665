"""Cart-pole swing-up by a continuous force, in JAX: a task without an end, with derivatives.

It is the problem `cart-pole` of `etude plan` as an environment: Barto, Sutton & Anderson's
cart-pole, whose pole hangs at first.
"""

import math

import jax
import jax.numpy as jnp

from etude.dynamics import cart_pole
from etude.dynamics.integration import runge_kutta
from etude.environments.protocol import StepResult
from etude.environments.tasks.cart_pole_swing_up_env import (
    CART_MASS,
    FORCE_COST,
    GRAVITY,
    HALF_LENGTH,
    MAX_FORCE,
    MAX_STEPS,
    POLE_MASS,
    POSITION_COST,
    RATE_COST,
    START_RANGE,
    TIME_STEP,
    VELOCITY_COST,
)
from etude.environments.wrappers.time_limit import TimeLimit
from etude.spaces import Box
from etude.struct import struct
from etude.types import Array


@struct
class CartPoleSwingUpTask:
    """Swing a hanging pole up, and hold it in the middle of a track without ends.

    State [4]: the cart's position (m) and velocity (m/s), the pole's angle from upright (rad, not
    wrapped) and its rate (rad/s). Observation [5]: position, velocity, the cosine and the sine of
    the angle, rate. An action a, [1] in [-1, 1], is a force of 10 a N during 0.05 s. Reward
    −(1 − cos angle + 0.1 position² + 0.01 velocity² + 0.01 rate² + 0.1 a²), of the state before the
    step. An episode begins with the pole hanging and all at rest, each element of the state uniform
    within 0.2 of that, and is cut off after 100 steps. Masses and length are CartPole-v1's.
    """

    gravity: float = GRAVITY  # m/s²
    cart_mass: float = CART_MASS  # kg
    pole_mass: float = POLE_MASS  # kg
    half_length: float = HALF_LENGTH  # m, from the joint to the pole's center of mass

    @property
    def observation_space(self) -> Box:
        high = (math.inf, math.inf, 1.0, 1.0, math.inf)
        return Box((5,), low=tuple(-x for x in high), high=high)

    @property
    def action_space(self) -> Box:
        return Box((1,), low=-1.0, high=1.0)

    def dynamics(self, state: Array, control: Array) -> Array:
        """The next state [4] under a force `control` [1] (N): one Runge–Kutta step."""

        def derivative(state, control):
            return cart_pole.derivative(
                state,
                control,
                gravity=self.gravity,
                cart_mass=self.cart_mass,
                pole_mass=self.pole_mass,
                half_length=self.half_length,
            )

        return runge_kutta(derivative, state, control, TIME_STEP)

    def observe(self, state: Array) -> Array:
        """Return the observation [5] of a state [4]."""
        position, velocity, angle, rate = state
        return jnp.stack([position, velocity, jnp.cos(angle), jnp.sin(angle), rate])

    def reset(self, key: Array) -> tuple[Array, Array]:
        spread = jax.random.uniform(key, (4,), minval=-START_RANGE, maxval=START_RANGE)
        state = jnp.array([0, 0, math.pi, 0]) + spread
        return state, self.observe(state)

    def reward(self, state: Array, action: Array, next_state: Array) -> Array:
        """The reward of a step, []; it does not depend on where the step leads."""
        position, velocity, angle, rate = state
        action = jnp.clip(action, -1, 1)
        return -(
            1
            - jnp.cos(angle)
            + POSITION_COST * position**2
            + VELOCITY_COST * velocity**2
            + RATE_COST * rate**2
            + FORCE_COST * action[0] ** 2
        )

    def terminates(self, next_state: Array) -> Array:
        """False: only the time limit ends an episode."""
        return jnp.bool_(False)

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, StepResult]:
        next_state = self.dynamics(state, MAX_FORCE * jnp.clip(action, -1, 1))
        return next_state, StepResult(
            self.observe(next_state),
            self.reward(state, action, next_state),
            self.terminates(next_state),
            jnp.bool_(False),
        )


def limited_cart_pole_swing_up() -> TimeLimit:
    """The task with the time limit of its registration."""
    return TimeLimit(CartPoleSwingUpTask(), MAX_STEPS)
