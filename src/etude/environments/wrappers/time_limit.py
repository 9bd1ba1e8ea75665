"""A time limit around an environment written in JAX."""

from typing import Any

import jax.numpy as jnp

from etude.environments.protocol import StepResult
from etude.struct import replace, static, struct
from etude.types import Array


@struct
class TimeLimitState:
    """A state and the number of steps taken from the start of its episode."""

    state: Any
    time: Array


@struct
class TimeLimit:
    """Truncates an episode after `limit` steps, as Gymnasium's wrapper of that name does."""

    environment: Any
    limit: int = static()

    @property
    def observation_space(self):
        return self.environment.observation_space

    @property
    def action_space(self):
        return self.environment.action_space

    def reset(self, key: Array) -> tuple[TimeLimitState, Any]:
        state, observation = self.environment.reset(key)
        return TimeLimitState(state, jnp.int32(0)), observation

    def step(
        self, timed: TimeLimitState, action: Any, key: Array
    ) -> tuple[TimeLimitState, StepResult]:
        state, outcome = self.environment.step(timed.state, action, key)
        time = timed.time + 1
        return TimeLimitState(state, time), replace(
            outcome, truncated=outcome.truncated | (time >= self.limit)
        )
