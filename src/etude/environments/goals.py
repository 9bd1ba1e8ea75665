"""Goals of environments: the reward of one goal achieved where another was desired.

The observation of a goal environment is a Dict with the keys "achieved_goal" and "desired_goal", as
in Gymnasium-Robotics (Plappert et al., "Multi-Goal Reinforcement Learning: Challenging Robotics
Environments and Request for Research", 2018). Hindsight replaces the goal that was desired and asks
for the reward of the step as it would have been.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from etude.environments.protocol import GoalRewardFunction
from etude.errors import InvalidInput
from etude.spaces import EnvironmentSpec
from etude.struct import static, struct
from etude.types import Array


@struct
class GoalReward:
    """The reward of an environment where one goal was achieved and another desired, in JAX.

    Its functions are of single goals. Two are equal where their functions are.
    """

    reward: Callable = static()  # (achieved_goal, desired_goal) -> reward, []
    # the same -> whether the step terminates the episode, []; None: as the step itself said
    terminated: Callable | None = static(None)

    def __call__(
        self, achieved_goal: Array, desired_goal: Array, terminated: Array
    ) -> tuple[Array, Array]:
        """Return (reward, terminated), [...], of steps.

        Args:
            achieved_goal: goals after the steps, [..., *goal].
            desired_goal: the goals that are asked for, [..., *goal].
            terminated: whether the steps themselves terminated their episodes, [...].
        """
        goals = achieved_goal, desired_goal
        reward = _over_steps("reward", self.reward, terminated.ndim)(*goals)
        if self.terminated is not None:
            terminated = _over_steps("terminated", self.terminated, terminated.ndim)(*goals)
        return reward.astype(jnp.float32), terminated.astype(bool)


# Gymnasium id -> the reward that is registered for its goals
GOAL_REWARDS: dict[str, GoalReward] = {}


def register_goal_reward(
    environment: str,
    reward: Callable[[Array, Array], Array],
    terminated: Callable[[Array, Array], Array] | None = None,
) -> None:
    """Register the reward of the goals of an environment, in JAX, for hindsight.

    Args:
        environment: Gymnasium id of the environment.
        reward: (achieved_goal, desired_goal) -> reward of a step, of two single goals.
        terminated: the same -> whether the step terminates its episode; by default the flag that
            the step itself had stays.

    It takes precedence over what the environment says itself: a method compute_reward of a
    Gymnasium environment is called in Python, which is slower. A module that registers an
    environment may register this too.

    Raises:
        InvalidInput: for a reward or a termination that is no function.
    """
    for role, function in (("reward", reward), ("terminated", terminated)):
        if not callable(function) and (role, function) != ("terminated", None):
            raise InvalidInput(
                f"{role} is {function!r}; give a function of (achieved_goal, desired_goal)"
            )
    GOAL_REWARDS[environment.split(":")[-1]] = GoalReward(reward, terminated)


def goal_reward_for(spec: EnvironmentSpec) -> GoalRewardFunction:
    """Return the reward of the goals of an environment: registered for its id, or its own.

    Raises InvalidInput where there is none.
    """
    reward = GOAL_REWARDS.get(spec.id, spec.goal_reward)
    if reward is not None:
        return reward
    if not spec.id:
        raise InvalidInput(
            "the reward of other goals is not known in this environment: give it a method "
            "compute_reward(achieved_goal, desired_goal, info) if it is one of Gymnasium, and an "
            "attribute goal_reward, an etude.environments.goals.GoalReward, if it is written in JAX"
        )
    raise InvalidInput(
        f"the reward of other goals is not known in {spec.id!r}, which has no method "
        "compute_reward(achieved_goal, desired_goal, info); give it with "
        f"etude.register_goal_reward({spec.id!r}, reward)"
    )


def _over_steps(role: str, function: Callable, axes: int) -> Callable:
    """The function of single goals as one of goals with `axes` leading axes."""

    def of_one_step(achieved_goal: Array, desired_goal: Array) -> Array:
        value = jnp.asarray(function(achieved_goal, desired_goal))
        if value.shape != ():
            raise InvalidInput(
                f"the {role} of two goals of shape {list(achieved_goal.shape)} has shape "
                f"{list(value.shape)}; return a single number, as of one step"
            )
        return value

    for _ in range(axes):
        of_one_step = jax.vmap(of_one_step)
    return of_one_step
