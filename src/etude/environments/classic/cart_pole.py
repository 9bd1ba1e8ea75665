"""The cart-pole, a pole balanced on a cart, with a force of two values and a continuous one.

The first is equal step by step to Gymnasium's CartPole-v1, the second to etude's own
etude/CartPoleContinuous-v0.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from etude.dynamics import cart_pole
from etude.environments.protocol import StepResult
from etude.spaces import Box, Discrete
from etude.struct import static, struct
from etude.types import Array


def _observation_space(port) -> Box:
    # twice the limits, so that terminal observations lie inside
    high = tuple(
        np.array([2 * port.max_position, np.inf, 2 * port.max_angle, np.inf], np.float32).tolist()
    )
    return Box((4,), low=tuple(-bound for bound in high), high=high)


def _dynamics(port, state: Array, control: Array) -> Array:
    """The next state [4] under a force `control` [1] (N): one explicit Euler step."""
    derivative = cart_pole.derivative(
        state,
        control,
        gravity=port.gravity,
        cart_mass=port.cart_mass,
        pole_mass=port.pole_mass,
        half_length=port.half_length,
    )
    return state + port.time_step * derivative


def _reset(port, key: Array) -> tuple[Array, Array]:
    state = jax.random.uniform(key, (4,), jnp.float32, -port.start, port.start)
    return state, state


def _reward(port, state: Array, action: Array, next_state: Array) -> Array:
    return jnp.float32(1)


def _terminates(port, next_state: Array) -> Array:
    position, angle = next_state[0], next_state[2]
    return (jnp.abs(position) > port.max_position) | (jnp.abs(angle) > port.max_angle)


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

    observation_space = property(_observation_space)
    dynamics = _dynamics
    reset = _reset
    reward = _reward
    terminates = _terminates

    @property
    def action_space(self) -> Discrete:
        return Discrete(2)

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, StepResult]:
        force = jnp.where(action == 1, self.push, -self.push)
        next_state = self.dynamics(state, force[None])
        reward, terminated = self.reward(state, action, next_state), self.terminates(next_state)
        return next_state, StepResult(next_state, reward, terminated, jnp.bool_(False))


@struct
class ContinuousCartPole:
    """The same cart and pole under any force up to the push: `push` · action, of an action [1] in
    [−1, 1].

    The action is not clipped here. It is the environment on which Pineda et al., "MBRL-Lib: a
    modular library for model-based reinforcement learning", 2021, plan by PETS, there for 200 steps
    (`cartpole_continuous`).
    """

    gravity: float = 9.8  # m/s²
    cart_mass: float = 1.0  # kg
    pole_mass: float = 0.1  # kg
    half_length: float = 0.5  # m, from the joint to the pole's center of mass
    push: float = 10.0  # N, of an action of 1
    time_step: float = 0.02  # s
    start: float = 0.05  # each element of the first state is within ± this
    max_position: float = static(2.4)  # m from the center
    max_angle: float = static(math.radians(12))  # rad from upright

    observation_space = property(_observation_space)
    dynamics = _dynamics
    reset = _reset
    reward = _reward
    terminates = _terminates

    @property
    def action_space(self) -> Box:
        return Box((1,), low=-1.0, high=1.0)

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, StepResult]:
        next_state = self.dynamics(state, self.push * action)
        reward, terminated = self.reward(state, action, next_state), self.terminates(next_state)
        return next_state, StepResult(next_state, reward, terminated, jnp.bool_(False))
