"""The acrobot, a double pendulum with one motor, equal step by step to Gymnasium's Acrobot-v1."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from etude.dynamics import acrobot
from etude.dynamics.integration import runge_kutta
from etude.environments.classic.pendulum import wrap
from etude.environments.protocol import StepResult
from etude.spaces import Box, Discrete
from etude.struct import static, struct
from etude.types import Array


@struct
class Acrobot:
    """Swing the tip of two hanging links above a line with a motor between them: torque −1, 0 or 1
    (actions 0, 1, 2).

    State [4]: the first link's angle from hanging and the second's relative to the first (rad, in
    [−π, π)), and their rates (rad/s). Observation [6]: cosine and sine of the first angle, then of
    the second, and the rates. Reward −1 a step, and 0 for the step that terminates: when
    −cos(first) − cos(first + second) is above `goal_height`. Sutton, "Generalization in
    reinforcement learning: successful examples using sparse coarse coding", 1996, with the
    equations of Sutton & Barto, "Reinforcement learning: an introduction", 1998, §11.3.
    """

    gravity: float = 9.8  # m/s²
    length: float = 1.0  # m, of the first link
    mass_1: float = 1.0  # kg
    mass_2: float = 1.0  # kg
    center_1: float = 0.5  # m, from the first link's joint to its center of mass
    center_2: float = 0.5  # m
    inertia: float = 1.0  # kg m², of each link about its center of mass
    torque: float = 1.0  # N m, either way
    time_step: float = 0.2  # s
    goal_height: float = 1.0  # of the tip above the joint, for links of length 1
    start: float = 0.1  # each element of the first state is within ± this
    max_rate_1: float = static(4 * math.pi)  # rad/s
    max_rate_2: float = static(9 * math.pi)  # rad/s

    @property
    def observation_space(self) -> Box:
        high = tuple(np.array([1, 1, 1, 1, self.max_rate_1, self.max_rate_2], np.float32).tolist())
        return Box((6,), low=tuple(-bound for bound in high), high=high)

    @property
    def action_space(self) -> Discrete:
        return Discrete(3)

    def derivative(self, state: Array, control: Array) -> Array:
        """d state / dt [4] under a torque `control` [1] (N m) between the links."""
        return acrobot.derivative(
            state,
            control,
            gravity=self.gravity,
            length=self.length,
            mass_1=self.mass_1,
            mass_2=self.mass_2,
            center_1=self.center_1,
            center_2=self.center_2,
            inertia=self.inertia,
        )

    def dynamics(self, state: Array, control: Array) -> Array:
        """The next state [4] under a torque `control` [1] (N m): one Runge-Kutta step (RK4),
        wrapped and clipped."""
        state = runge_kutta(self.derivative, state, control, self.time_step)
        rates = [
            jnp.clip(state[2], -self.max_rate_1, self.max_rate_1),
            jnp.clip(state[3], -self.max_rate_2, self.max_rate_2),
        ]
        return jnp.concatenate([wrap(state[:2]), jnp.stack(rates)])

    def observe(self, state: Array) -> Array:
        """Return the observation [6] of a state [4]."""
        cosines, sines = jnp.cos(state[:2]), jnp.sin(state[:2])
        return jnp.stack([cosines[0], sines[0], cosines[1], sines[1], state[2], state[3]])

    def reset(self, key: Array) -> tuple[Array, Array]:
        state = jax.random.uniform(key, (4,), jnp.float32, -self.start, self.start)
        return state, self.observe(state)

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, StepResult]:
        next_state = self.dynamics(state, self.torque * (action - 1)[None])
        reward, terminated = self.reward(state, action, next_state), self.terminates(next_state)
        return next_state, StepResult(
            self.observe(next_state), reward, terminated, jnp.bool_(False)
        )

    def reward(self, state: Array, action: Array, next_state: Array) -> Array:
        return jnp.where(self.terminates(next_state), jnp.float32(0), jnp.float32(-1))

    def terminates(self, next_state: Array) -> Array:
        height = -jnp.cos(next_state[0]) - jnp.cos(next_state[0] + next_state[1])
        return height > self.goal_height
