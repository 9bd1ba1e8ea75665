"""A time limit for environments written in JAX: truncation after a number of steps."""

from typing import Any

import jax.numpy as jnp

from etude.environments.protocol import StepResult, goal_reward_of
from etude.spaces import GoalRewardFunction
from etude.struct import replace, static, struct
from etude.types import Array


@struct
class TimeLimitState:
    """The state of the wrapped environment and the number of steps taken in its episode."""

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

    @property
    def goal_reward(self) -> GoalRewardFunction | None:
        return goal_reward_of(self.environment)

    def reset(self, key: Array) -> tuple[TimeLimitState, Any]:
        state, observation = self.environment.reset(key)
        return TimeLimitState(state, jnp.int32(0)), observation

    def step(
        self, limit_state: TimeLimitState, action: Any, key: Array
    ) -> tuple[TimeLimitState, StepResult]:
        state, result = self.environment.step(limit_state.state, action, key)
        time = limit_state.time + 1
        return TimeLimitState(state, time), replace(
            result, truncated=result.truncated | (time >= self.limit)
        )
