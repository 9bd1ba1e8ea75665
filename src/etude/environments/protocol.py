"""The two verbs of an environment, and what a step tells.

    reset(key)               -> state, observation [env, ...]
    step(state, action, key) -> state, observation [env, ...], Outcome

Both run inside a compiled loop, whatever the environment is made of, and act on `spec.num_envs`
copies at once. `step` restarts the copies whose episode is over: the observation it returns is the
one to act on next, while `Outcome.next_observation` is the true successor. Where an
environment `reseeds`, `reset` is a fresh start: all that follows is determined by its key, the
actions and the keys of the steps. Nothing else in the library knows what kind of environment it
has.
"""

from typing import Any, Protocol

from etude.spaces import EnvironmentSpec
from etude.struct import struct
from etude.types import Array


@struct
class StepResult:
    """What followed an action; leaves are [env, ...], or without that axis for a single environment
    written in JAX."""

    next_observation: Any  # the true successor, never the next episode's first observation
    reward: Array  # float32
    terminated: Array  # bool: the future is worth zero
    truncated: Array  # bool: the future was cut off, by a time limit or from outside


class Environment(Protocol):
    """Many copies at once, inside a compiled loop."""

    spec: EnvironmentSpec
    functional: bool  # its state is a value: it can be saved, and many seeds can share one program
    deterministic_reset: bool  # a reset with the same key starts the same play again

    def reset(self, key: Array) -> tuple[Any, Any]: ...

    def step(self, state: Any, action: Any, key: Array) -> tuple[Any, Any, StepResult]: ...

    def close(self) -> None: ...


class JaxEnvironment(Protocol):
    """One copy of an environment written in JAX; `Jax` makes many of it."""

    observation_space: Any
    action_space: Any

    def reset(self, key: Array) -> tuple[Any, Any]: ...

    def step(self, state: Any, action: Any, key: Array) -> tuple[Any, StepResult]: ...
