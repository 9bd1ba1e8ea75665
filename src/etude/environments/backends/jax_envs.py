"""Environments written in JAX, vectorized and traced into the compiled loop that steps them."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from etude.environments.protocol import JaxEnvironment, StepResult, goal_reward_of
from etude.errors import InvalidInput
from etude.spaces import EnvironmentSpec, Space, to_environment_action
from etude.trees import where_done
from etude.types import Array


class JaxEnvs:
    """A batch of environments written in JAX."""

    functional = True
    replayer = None

    def __init__(self, environment: JaxEnvironment, num_envs: int, env_id: str = ""):
        self.environment = environment
        self.spec = EnvironmentSpec(
            environment.observation_space,
            environment.action_space,
            num_envs,
            env_id,
            goal_reward_of(environment),
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

    def notices(self) -> list[str]:
        """Return []: no value comes from Python."""
        return []

    def successes(self) -> list[list[bool]]:
        """Return []: these environments do not say whether an episode was a success."""
        return []

    def cancel(self) -> None:
        """Do nothing: no step calls Python."""

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def check_jax_environment(environment: JaxEnvironment, name: str) -> None:
    """Trace a reset and a step, and compare what they return with the spaces and the protocol.

    Raises InvalidInput, with what is found and what is asked for: inside the compiled loop the same
    mistake is hard to read.
    """
    for role in ("observation_space", "action_space"):
        if not isinstance(space := getattr(environment, role), Space):
            raise InvalidInput(
                f"{role} of {name} is {space!r:.80}; an environment written in JAX has spaces of "
                "etude.spaces, to which space_from_gymnasium converts"
            )
    reward = goal_reward_of(environment)
    if reward is not None and not callable(reward):
        raise InvalidInput(
            f"goal_reward of {name} is {reward!r:.80}; it is an etude.environments.goals.GoalReward"
        )
    key = jax.random.key(0)
    try:
        state, observation = jax.eval_shape(environment.reset, key)
        action = jax.eval_shape(
            lambda: to_environment_action(
                environment.action_space, environment.action_space.zeros()
            )
        )
        next_state, result = jax.eval_shape(environment.step, state, action, key)
    except Exception as error:
        raise InvalidInput(
            f"{name} cannot be traced: {type(error).__name__}: {error}; it needs reset(key) -> "
            "(state, observation) and step(state, action, key) -> (state, StepResult)"
        ) from error
    if not isinstance(result, StepResult):
        raise InvalidInput(
            f"step of {name} returns {type(result).__name__} beside the state; return "
            "etude.environments.protocol.StepResult"
        )
    shown = environment.observation_space.zeros()
    for what, found, expected in (
        ("reset: observation", observation, shown),
        ("step: next_observation", result.next_observation, shown),
        ("step: state", next_state, state),
        ("step: reward", result.reward, jnp.zeros(())),
        ("step: terminated", result.terminated, jnp.bool_(False)),
        ("step: truncated", result.truncated, jnp.bool_(False)),
    ):
        if types_of(found) != types_of(expected):
            raise InvalidInput(
                f"{name}, {what}: {types_of(found)}, where {types_of(expected)} is expected"
            )


def types_of(tree: Any) -> Any:
    """The tree with each leaf's type, such as "float32[4]", in its place."""
    return jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", tree)
