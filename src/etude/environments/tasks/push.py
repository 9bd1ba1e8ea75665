"""Pushing a round block with a disc, in JAX: the expert goes around the block on either side.

A small planar push, after the pushing tasks of Florence et al., "Implicit Behavioral Cloning"
(2021): the mean of the two ways goes around on neither, and gets nowhere. The expert is
`etude.algorithms.control.heuristic`.
"""

import jax
import jax.numpy as jnp

from etude.environments.protocol import StepResult
from etude.environments.tasks.push_env import (
    CONTACT,
    MAX_STEPS,
    REACH,
    SPREAD,
    START_DISTANCE,
    STEP_SIZE,
    TARGET,
    TOLERANCE,
)
from etude.environments.wrappers.time_limit import TimeLimit
from etude.spaces import Box
from etude.struct import struct
from etude.types import Array


@struct
class PushState:
    """Where the centers of the pusher and of the block are, each [2]."""

    pusher: Array
    block: Array


@struct
class Push:
    """Push a block to a target; the pusher starts between the two, so it first goes around.

    Pusher and block are discs of radius 0.1 and 0.15. Observation [4]: the position (x, y) of the
    pusher, in [-1, 1]², then that of the block, which can be pushed out of this square, up to 1.25.
    An action, [2] in [-1, 1], displaces the pusher in units of 0.05, within the square. Where the
    discs overlap then, the block moves away along the line of the centers until they touch: it
    slides without turning, and stops with the pusher. The target is at (0.6, 0). An episode begins
    with the block at (0, 0) and the pusher at (0.35, 0), between it and the target, each coordinate
    uniform within 0.05 of that; so the pusher has to go around the block. It ends with reward 1
    where the block is within 0.05 of the target; all other rewards are 0. It is cut off after 100
    steps.
    """

    @property
    def observation_space(self) -> Box:
        high = (1.0, 1.0, REACH, REACH)
        return Box((4,), low=tuple(-x for x in high), high=high)

    @property
    def action_space(self) -> Box:
        return Box((2,), low=-1.0, high=1.0)

    def reset(self, key: Array) -> tuple[PushState, Array]:
        spread = jax.random.uniform(key, (2, 2), minval=-SPREAD, maxval=SPREAD)
        state = PushState(jnp.array([START_DISTANCE, 0.0]) + spread[0], spread[1])
        return state, self.observe(state)

    def step(self, state: PushState, action: Array, key: Array) -> tuple[PushState, StepResult]:
        pusher = jnp.clip(state.pusher + STEP_SIZE * jnp.clip(action, -1, 1), -1, 1)
        apart = state.block - pusher
        distance = jnp.linalg.norm(apart)
        touching = pusher + CONTACT * apart / jnp.maximum(distance, 1e-6)
        state = PushState(pusher, jnp.where(distance < CONTACT, touching, state.block))
        is_there = ((state.block - jnp.array(TARGET)) ** 2).sum() <= TOLERANCE**2
        return state, StepResult(
            self.observe(state), is_there.astype(float), is_there, jnp.bool_(False)
        )

    def observe(self, state: PushState) -> Array:
        """Both positions, [4]."""
        return jnp.concatenate([state.pusher, state.block])


def limited_push() -> TimeLimit:
    """The task with the time limit of its registration."""
    return TimeLimit(Push(), MAX_STEPS)
