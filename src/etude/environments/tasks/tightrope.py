"""A tightrope walker, in JAX: errors compound where demonstrations say nothing.

It is the example of the lectures on imitation, after the one of Ross & Bagnell, "Efficient
Reductions for Imitation Learning" (2010). `etude.tabular.compounding_error` has what policies cost;
the expert is `etude.algorithms.control.heuristic`.
"""

import jax.numpy as jnp

from etude.environments.protocol import StepResult
from etude.environments.tasks.tightrope_env import MAX_STEPS, NUM_ACTIONS, NUM_PLACES, ROPE
from etude.environments.wrappers.time_limit import TimeLimit
from etude.spaces import Discrete
from etude.struct import struct
from etude.types import Array


@struct
class Tightrope:
    """Walk on a rope; each step off it costs 1.

    Observation: where the walker is, 0 left of the rope, 1 on it, 2 right of it, which is the state
    too. The actions are a step to the left, ahead and to the right. A step to a side moves the
    walker one place to that side, if there is one; a step ahead keeps the place. So one wrong step
    leads off the rope, and the step to the other side leads back. The expert never leaves the rope,
    so its demonstrations do not say how to come back. Reward -1 where a step ends off the rope,
    else 0. An episode begins on the rope and is cut off after 100 steps.
    """

    @property
    def observation_space(self) -> Discrete:
        return Discrete(NUM_PLACES)

    @property
    def action_space(self) -> Discrete:
        return Discrete(NUM_ACTIONS)

    def reset(self, key: Array) -> tuple[Array, Array]:
        return jnp.int32(ROPE), jnp.int32(ROPE)

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, StepResult]:
        place = jnp.clip(state + action.astype(jnp.int32) - 1, 0, NUM_PLACES - 1)
        reward = jnp.where(place == ROPE, 0.0, -1.0)
        never = jnp.bool_(False)
        return place, StepResult(place, reward, never, never)


def limited_tightrope() -> TimeLimit:
    """A tightrope with the time limit of its registration."""
    return TimeLimit(Tightrope(), MAX_STEPS)
