"""Environments written in JAX, vectorized and traced into the compiled loop that steps them."""

from functools import partial
from typing import Any

import jax

from etude.environments.protocol import JaxEnvironment, StepResult
from etude.spaces import EnvironmentSpec, to_environment_action
from etude.trees import where_done
from etude.types import Array


class JaxEnvs:
    """A batch of environments written in JAX."""

    functional = True
    deterministic_reset = True

    def __init__(self, environment: JaxEnvironment, num_envs: int, env_id: str = ""):
        self.environment = environment
        self.spec = EnvironmentSpec(
            environment.observation_space, environment.action_space, num_envs, env_id
        )

    def reset(self, key: Array) -> tuple[Any, Any]:
        return jax.vmap(self.environment.reset)(jax.random.split(key, self.spec.num_envs))

    def step(self, state: Any, action: Any, key: Array) -> tuple[Any, Any, StepResult]:
        key_step, key_reset = jax.random.split(key)
        action = to_environment_action(self.spec.action, action)
        state, result = jax.vmap(self.environment.step)(
            state, action, jax.random.split(key_step, self.spec.num_envs)
        )
        done = result.terminated | result.truncated

        def reset_done(current):
            return jax.tree.map(partial(where_done, done), self.reset(key_reset), current)

        # most steps end no episode, and skip the reset
        state, observation = jax.lax.cond(
            done.any(), reset_done, lambda current: current, (state, result.next_observation)
        )
        return state, observation, result

    def close(self) -> None:
        """Do nothing: there is nothing to release."""
