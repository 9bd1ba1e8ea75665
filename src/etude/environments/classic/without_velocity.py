"""Partially observed versions of classic control, whose observation has no velocities."""

from typing import Any

import jax.numpy as jnp

from etude.environments.protocol import StepResult
from etude.spaces import Box, compact_bound
from etude.struct import replace, static, struct
from etude.types import Array


@struct
class WithoutVelocity:
    """An environment of which some elements of the observation are seen, the `positions`.

    The observation of the environment is a Box of one axis.
    """

    environment: Any
    positions: tuple[int, ...] = static()

    @property
    def observation_space(self) -> Box:
        bounds = self.environment.observation_space.bounds
        low, high = (compact_bound(bound[list(self.positions)]) for bound in bounds)
        return Box((len(self.positions),), low=low, high=high)

    @property
    def action_space(self) -> Any:
        return self.environment.action_space

    def reset(self, key: Array) -> tuple[Any, Array]:
        state, observation = self.environment.reset(key)
        return state, self.observe(observation)

    def step(self, state: Any, action: Array, key: Array) -> tuple[Any, StepResult]:
        state, result = self.environment.step(state, action, key)
        return state, replace(result, next_observation=self.observe(result.next_observation))

    def observe(self, observation: Array) -> Array:
        """Return the elements of an observation that are seen."""
        return jnp.stack([observation[i] for i in self.positions])
