"""The protocol of environments: `reset`, `step` and the result of a step.

    reset(key)               -> state, observation [env, ...]
    step(state, action, key) -> state, observation [env, ...], StepResult

Both run inside a compiled loop, on any backend, and act on `spec.num_envs` environments at once.
`step` resets the environments whose episode is over: the observation it returns is the one to act
on next, while `StepResult.next_observation` is the true next observation. No other part of the
library knows the backend of an environment.

A run is resumed in one of three ways. The state of a `functional` environment is saved with it.
Simulators with a `replayer` are brought to where they were: their running episodes are played
again. The others begin new episodes.
"""

from typing import Any, Protocol, runtime_checkable

from etude.environments.backends.episode_log import EpisodeLog
from etude.spaces import EnvironmentSpec, GoalRewardFunction, Space
from etude.struct import struct
from etude.types import Array


@struct
class StepResult:
    """The result of an action; leaves are [env, ...], or [...] for a single JaxEnvironment."""

    next_observation: Any  # the true next one, never the first of the next episode
    reward: Array  # float32
    terminated: Array  # bool: a terminal state, whose value is zero
    truncated: Array  # bool: the episode was cut off, by a time limit or from outside


class Replayer(Protocol):
    """Brings simulators, whose state cannot be saved, to where they were."""

    def episode_log(self) -> EpisodeLog:
        """What the running episodes are played again from."""
        ...

    def replay(self, state: Any, log: EpisodeLog) -> tuple[Any, Any, list[str]]:
        """Play the episodes in `log` again, which was taken together with `state`; not traced.

        It returns the state, the observation to act on, and for each copy why its episode could not
        be played again, so that a new one has begun; that is "" where it could.
        """
        ...


class Environment(Protocol):
    """A batch of environments, stepped inside a compiled loop."""

    spec: EnvironmentSpec
    functional: bool  # the state is a pytree: it can be saved, and seeds can share one program

    @property
    def replayer(self) -> Replayer | None:
        """What brings its simulators to where they were; None where nothing can, or need."""
        ...

    def reset(self, key: Array) -> tuple[Any, Any]: ...

    def step(self, state: Any, action: Any, key: Array) -> tuple[Any, Any, StepResult]: ...

    def notices(self) -> list[str]:
        """What a person should know of the values that came from Python, each once."""
        ...

    def cancel(self) -> None:
        """Stop the loop at its next step, from another thread, if its steps call Python."""
        ...

    def successes(self) -> list[list[bool]]:
        """Whether each finished episode of each environment was a success, since the last reset.

        It is [] where episodes do not say so.
        """
        ...

    def close(self) -> None: ...


@runtime_checkable
class JaxEnvironment(Protocol):
    """A single environment written in JAX; `JaxEnvs` makes a batch of it.

    Both methods are pure functions, for they are traced. Nothing else ends an episode than
    `terminated` and `truncated`: one that can go on for ever can be trained on, but an evaluation
    of it never returns. Wrap it in `etude.environments.wrappers.time_limit.TimeLimit`.
    """

    @property
    def observation_space(self) -> Space: ...

    @property
    def action_space(self) -> Space: ...

    def reset(self, key: Array) -> tuple[Any, Any]:
        """The state and the observation at the start of an episode."""
        ...

    def step(self, state: Any, action: Any, key: Array) -> tuple[Any, StepResult]:
        """The next state, of the same shapes and dtypes, and the result of the action.

        A bounded Box action is within its bounds, a discrete one counts from the space's `start`.
        """
        ...


@runtime_checkable
class GoalEnvironment(Protocol):
    """A JaxEnvironment that knows the reward of any two goals, which hindsight asks for.

    Its observation is a Composite with the names "achieved_goal" and "desired_goal".
    """

    @property
    def goal_reward(self) -> GoalRewardFunction | None:
        """As a rule an `etude.environments.goals.GoalReward`; None where it is not known."""
        ...


def goal_reward_of(environment: JaxEnvironment) -> GoalRewardFunction | None:
    """The reward of the goals of an environment written in JAX; None where it has none."""
    return environment.goal_reward if isinstance(environment, GoalEnvironment) else None
