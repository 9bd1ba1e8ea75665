"""A T-maze, in JAX: only the first observation shows which way to turn at the end.

After the T-maze of Bakker, "Reinforcement Learning with Long Short-Term Memory" (2001), for
policies that have to remember; rewards and observations are simpler here. Its expert is
`etude.algorithms.control.heuristic`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from etude.environments.protocol import StepResult
from etude.environments.tasks.t_maze_env import AHEAD, LENGTH, MAX_STEPS, NUM_ACTIONS
from etude.environments.wrappers.time_limit import TimeLimit
from etude.spaces import Box, Discrete
from etude.struct import static, struct
from etude.types import Array


@struct
class TMazeState:
    """How far the walker has gone, and the side with the reward, each int32 []."""

    position: Array  # steps from the start, `length` at the junction
    side: Array  # -1 left, 1 right


@struct
class TMaze:
    """Walk along a corridor to its junction, and turn there to the side seen at the start.

    Observation [2]: the cue, -1 for left and 1 for right at the first step of an episode and 0
    later; and 1 at the junction, else 0. The actions are left, ahead and right. In the corridor,
    left and right run into a wall; at the junction ahead does. The turn at the junction ends the
    episode, with reward 1 on the side of the cue; all other rewards are 0. The sides are equally
    probable, so a policy without a memory gets at most 1/2 on average, and one that remembers the
    cue 1. An episode is cut off after 100 steps.
    """

    length: int = static(LENGTH, at_least=1, at_most=MAX_STEPS - 1)  # steps from start to junction

    @property
    def observation_space(self) -> Box:
        return Box((2,), low=-1.0, high=1.0)

    @property
    def action_space(self) -> Discrete:
        return Discrete(NUM_ACTIONS)

    def reset(self, key: Array) -> tuple[TMazeState, Array]:
        side = jnp.where(jax.random.bernoulli(key), 1, -1)
        return TMazeState(jnp.int32(0), side), jnp.stack([side.astype(float), 0.0])

    def step(self, state: TMazeState, action: Array, key: Array) -> tuple[TMazeState, StepResult]:
        terminated = (state.position == self.length) & (action != AHEAD)
        is_cued_side = action - AHEAD == state.side
        position = jnp.minimum(state.position + (action == AHEAD), self.length)
        observation = jnp.stack([0.0, (position == self.length).astype(float)])
        reward = (terminated & is_cued_side).astype(float)
        next_state = TMazeState(position, state.side)
        return next_state, StepResult(observation, reward, terminated, jnp.bool_(False))


def limited_t_maze(**parameters: Any) -> TimeLimit:
    """A T-maze with the time limit of its registration."""
    return TimeLimit(TMaze(**parameters), MAX_STEPS)
