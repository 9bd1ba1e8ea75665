"""Environments written in JAX, traced into the loop that calls them."""

from functools import partial
from typing import Any

import jax

from etude.environments.protocol import JaxEnvironment, StepResult
from etude.spaces import EnvironmentSpec, to_environment_action
from etude.trees import where_done
from etude.types import Array


class JaxEnvs:
    """Many copies of an environment written in JAX."""

    functional = True
    deterministic_reset = True

    def __init__(self, environment: JaxEnvironment, num_envs: int):
        self.environment = environment
        self.spec = EnvironmentSpec(
            environment.observation_space, environment.action_space, num_envs
        )

    def reset(self, key: Array) -> tuple[Any, Any]:
        return jax.vmap(self.environment.reset)(jax.random.split(key, self.spec.num_envs))

    def step(self, state: Any, action: Any, key: Array) -> tuple[Any, Any, StepResult]:
        key_step, key_reset = jax.random.split(key)
        action = to_environment_action(self.spec.action, action)
        state, outcome = jax.vmap(self.environment.step)(
            state, action, jax.random.split(key_step, self.spec.num_envs)
        )
        done = outcome.terminated | outcome.truncated

        def restart(now):
            return jax.tree.map(partial(where_done, done), self.reset(key_reset), now)

        # most steps end no episode, and are spared the making of first states
        state, observation = jax.lax.cond(
            done.any(), restart, lambda now: now, (state, outcome.next_observation)
        )
        return state, observation, outcome

    def close(self) -> None:
        """There is nothing to let go of."""
