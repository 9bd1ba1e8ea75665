"""Goals of environments: the reward of one goal achieved where another was desired.

The observation of a goal environment is a Dict with the keys "achieved_goal" and "desired_goal", as
in Gymnasium-Robotics (Plappert et al., "Multi-Goal Reinforcement Learning: Challenging Robotics
Environments and Request for Research", 2018). Hindsight (Andrychowicz et al., 2017) replaces the
goal that was desired, and computes the reward of the step anew.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from etude.environments.backends.host_callback import raise_host_errors
from etude.environments.backends.host_goal_reward import HostGoalReward
from etude.environments.protocol import Environment
from etude.errors import InvalidInput
from etude.spaces import (
    ACHIEVED_GOAL,
    DESIRED_GOAL,
    EnvironmentSpec,
    GoalRewardFunction,
    from_environment_action,
    space_to_gymnasium,
)
from etude.struct import static, struct
from etude.types import Array

TRIAL_STEPS = 200  # of random actions
ROUNDING = 4 * float(np.finfo(np.float32).eps)  # of a goal that was computed in float64


@struct
class GoalReward:
    """The reward of an environment where one goal was achieved and another desired, in JAX.

    Each function takes one pair of goals, not a batch. Two GoalRewards are equal if their functions
    are.
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


class GoalSteps(NamedTuple):
    """Goals, rewards and terminations of steps, [step, ...]."""

    achieved_goal: np.ndarray  # after the step
    desired_goal: np.ndarray  # before it
    flag: np.ndarray  # whether the step itself terminated its episode
    reward: np.ndarray
    terminated: np.ndarray | None  # None where it is not known for these goals


def check_goal_reward(
    environment: Environment, name: str, own: GoalRewardFunction | None = None
) -> None:
    """Compare the reward of goals with that of steps of random actions, in one trial.

    Args:
        environment: one copy of the environment; it is reset and stepped.
        name: what messages call it.
        own: what the Gymnasium environment of the same id says itself, where something else is
            registered for the id. Both are then compared on goals that no step has, too, since
            random actions reach few goals.

    Raises:
        InvalidInput: for a step or goals on which they differ by more than the rounding of float32.
    """
    function = goal_reward_for(environment.spec)
    way_out = _way_out(environment.spec, function)
    steps = _random_steps(environment)
    with raise_host_errors():
        _compare(function, steps, f"a step of {name} had", way_out)
        if own is not None and own is not function:
            relabeled = _relabeled_steps(own, steps)
            _compare(function, relabeled, f"{name} itself has", way_out)


def _random_steps(environment: Environment) -> GoalSteps:
    """Steps of uniformly random actions."""
    space = environment.spec.action
    sampler = space_to_gymnasium(space)
    sampler.seed(0)
    actions = np.stack(
        [from_environment_action(space, np.asarray(sampler.sample())) for _ in range(TRIAL_STEPS)]
    )[:, None]

    @jax.jit
    def play(key: Array, actions: Array) -> tuple[Array, ...]:
        def step(carry, inputs):
            state, observation = carry
            state, following, result = environment.step(state, *inputs)
            return (state, following), (
                result.next_observation[ACHIEVED_GOAL],
                observation[DESIRED_GOAL],
                result.reward,
                result.terminated,
            )

        keys = jax.random.split(key, len(actions))
        return jax.lax.scan(step, environment.reset(key), (actions, keys))[1]

    with raise_host_errors():
        achieved, desired, reward, terminated = (
            np.asarray(x)[:, 0] for x in play(jax.random.key(0), actions)
        )
    return GoalSteps(achieved, desired, terminated, reward, terminated)


def _relabeled_steps(own: GoalRewardFunction, steps: GoalSteps) -> GoalSteps:
    """The steps with goals that others of them achieved, and the rewards by `own`.

    Half of the goals were achieved within ten steps of each other, so that some are near.
    """
    rng, count = np.random.default_rng(0), len(steps.reward)
    near = np.arange(count) + rng.integers(-10, 11, count)
    others = np.where(rng.random(count) < 0.5, near % count, rng.integers(0, count, count))
    desired, flag = steps.achieved_goal[others], np.zeros(count, bool)
    call = jax.jit(own)
    reward, terminated = map(np.asarray, call(steps.achieved_goal, desired, flag))
    # one that hands on the flag of the step does not know of other goals
    is_known = (
        terminated.any() or not np.asarray(call(steps.achieved_goal, desired, ~flag)[1]).all()
    )
    return GoalSteps(steps.achieved_goal, desired, flag, reward, terminated if is_known else None)


def _compare(function: GoalRewardFunction, steps: GoalSteps, owner: str, way_out: str) -> None:
    """Raise InvalidInput where a function says something else of goals than was seen of them.

    Goals of float64 are rounded on their way to the function, and a sparse reward jumps at its
    threshold. So the function may also agree on goals moved nearer or farther by the rounding.
    """
    achieved, desired = steps.achieved_goal, steps.desired_goal
    nearer = np.sign(desired - achieved) * ROUNDING * (np.abs(achieved) + np.abs(desired))
    shape = (3, *achieved.shape)
    try:
        reward, terminated = map(
            np.asarray,
            jax.jit(function)(
                np.stack([achieved, achieved + nearer, achieved - nearer]),
                np.broadcast_to(desired, shape),
                np.broadcast_to(steps.flag, shape[:2]),
            ),
        )
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(function, HostGoalReward):
            raise
        reason = str(error).strip().splitlines()[0]
        raise InvalidInput(
            f"the reward of goals raised {type(error).__name__}: {reason}; it is traced by JAX: "
            "write it in jax.numpy, as a function of two single goals, (achieved_goal, "
            "desired_goal), without info"
        ) from error
    size = 1 + np.abs(achieved).max(-1) + np.abs(desired).max(-1)
    is_close = np.isclose(reward, steps.reward, 10 * ROUNDING, 10 * ROUNDING * size)
    for what, found, seen, agrees in (
        ("reward", reward, steps.reward, is_close),
        ("termination", terminated, steps.terminated, terminated == steps.terminated),
    ):
        if seen is None:
            continue
        if not (agreed := agrees.any(0)).all():
            i = int(np.argmin(agreed))
            raise InvalidInput(
                f"the {what} of goals is {found[0, i]} where {achieved[i].tolist()} is achieved "
                f"and {desired[i].tolist()} desired, and there {owner} {seen[i]}, so hindsight "
                f"would learn another task; {way_out}. A reward that depends on more than the two "
                "goals, such as the action, cannot be learned from in hindsight"
            )


def _way_out(spec: EnvironmentSpec, function: GoalRewardFunction) -> str:
    """Say which function the user should mend."""
    if spec.id in GOAL_REWARDS:
        return f"mend the functions registered for {spec.id!r} with etude.register_goal_reward"
    if isinstance(function, HostGoalReward):
        return (
            "mend compute_reward and compute_terminated of the environment, or give the reward of "
            "its steps with etude.register_goal_reward"
        )
    return "mend the goal_reward of the environment"


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
