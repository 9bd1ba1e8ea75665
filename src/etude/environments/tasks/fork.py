"""A fork, in JAX: a disc lies ahead, and the expert passes it on the left or on the right.

The mean of the two ways leads into the disc: a first task for policies of several modes. The expert
is `etude.algorithms.control.heuristic`.
"""

import jax
import jax.numpy as jnp

from etude.environments.protocol import StepResult
from etude.environments.tasks.fork_env import (
    DISC,
    FORWARD,
    NUM_STEPS,
    RADIUS,
    SIDEWAYS,
    START_SPREAD,
)
from etude.spaces import Box
from etude.struct import struct
from etude.types import Array


@struct
class ForkState:
    """How many steps the point has gone, and where it is to the left."""

    steps: Array  # int32 []
    y: Array  # float32 []


@struct
class Fork:
    """Pass a disc on either side, while moving forward by 0.125 a step.

    Observation: the position (x, y) of the point, [2], in [-1, 1]², where x is forward and y to the
    left. The action, [1] in [-1, 1], is the displacement to the left in units of 0.125; the walls
    at y = -1 and 1 stop it. The disc has its center at (-0.1, 0) and radius 0.58. An episode begins
    at x = -1, with y uniform within 0.02 of 0. It ends in the disc with reward 0, or at x = 1,
    after 16 steps, with reward 1; all other rewards are 0.

    The first step has to choose a side: a point that goes straight ahead for one step, and then to
    a side as fast as it can, is in the disc.
    """

    @property
    def observation_space(self) -> Box:
        return Box((2,), low=-1.0, high=1.0)

    @property
    def action_space(self) -> Box:
        return Box((1,), low=-1.0, high=1.0)

    def reset(self, key: Array) -> tuple[ForkState, Array]:
        y = jax.random.uniform(key, minval=-START_SPREAD, maxval=START_SPREAD)
        state = ForkState(jnp.int32(0), y)
        return state, self.observe(state)

    def step(self, state: ForkState, action: Array, key: Array) -> tuple[ForkState, StepResult]:
        y = jnp.clip(state.y + SIDEWAYS * jnp.clip(action[0], -1, 1), -1, 1)
        state = ForkState(state.steps + 1, y)
        observation = self.observe(state)
        collides = jnp.sum((observation - jnp.array(DISC)) ** 2) < RADIUS**2
        passes = (state.steps >= NUM_STEPS) & ~collides
        return state, StepResult(
            observation, passes.astype(float), collides | passes, jnp.bool_(False)
        )

    def observe(self, state: ForkState) -> Array:
        """The position, [2]."""
        return jnp.stack([-1 + FORWARD * state.steps, state.y])
