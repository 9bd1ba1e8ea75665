"""Environments written in JAX, traced into the loop that calls them."""
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from etude.environments.protocol import JaxEnvironment, Outcome
from etude.spaces import Spec, to_environment
from etude.struct import replace, static, struct

Array = jax.Array


class Jax:
    """Many copies of an environment written in JAX."""
    pure = True
    reseeds = True

    def __init__(self, environment: JaxEnvironment, num_envs: int):
        self.environment = environment
        self.spec = Spec(environment.observation_space, environment.action_space, num_envs)

    def reset(self, key: Array) -> tuple[Any, Any]:
        return jax.vmap(self.environment.reset)(jax.random.split(key, self.spec.num_envs))

    def step(self, state: Any, action: Any, key: Array) -> tuple[Any, Any, Outcome]:
        key_step, key_reset = jax.random.split(key)
        action = to_environment(self.spec.action, action)
        state, outcome = jax.vmap(self.environment.step)(state, action, jax.random.split(key_step, self.spec.num_envs))
        done = outcome.terminated | outcome.truncated

        def restart(now):
            return jax.tree.map(partial(where_done, done), self.reset(key_reset), now)
        # most steps end no episode, and are spared the making of first states
        state, observation = jax.lax.cond(done.any(), restart, lambda now: now, (state, outcome.next_observation))
        return state, observation, outcome

    def close(self) -> None:
        """There is nothing to let go of."""


@struct
class Timed:
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

    def reset(self, key: Array) -> tuple[Timed, Any]:
        state, observation = self.environment.reset(key)
        return Timed(state, jnp.int32(0)), observation

    def step(self, timed: Timed, action: Any, key: Array) -> tuple[Timed, Outcome]:
        state, outcome = self.environment.step(timed.state, action, key)
        time = timed.time + 1
        return Timed(state, time), replace(outcome, truncated=outcome.truncated | (time >= self.limit))


def where_done(done: Array, new: Array, old: Array) -> Array:
    """`new` in the rows that are done, `old` elsewhere; leaves are [env, ...]."""
    return jnp.where(done.reshape(done.shape + (1,) * (new.ndim - done.ndim)), new, old)
