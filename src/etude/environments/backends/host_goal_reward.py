"""The reward of goals that a Gymnasium environment computes itself, called from compiled code."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from etude.environments.backends.host_callback import host_call
from etude.errors import EnvironmentFault
from etude.spaces import ACHIEVED_GOAL, DESIRED_GOAL
from etude.types import Array

PROBED_ROWS = 32  # of the first call, by which a function shows whether it takes batches


@runtime_checkable
class ComputesReward(Protocol):
    """A Gymnasium environment that knows the reward of any two goals (Gymnasium-Robotics)."""

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any: ...


@runtime_checkable
class ComputesTerminated(Protocol):
    """A Gymnasium environment that knows whether two goals terminate an episode."""

    def compute_terminated(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any: ...


class HostGoalReward:
    """`compute_reward` of a Gymnasium environment, and its `compute_terminated` if it has one.

    Without `compute_terminated` the flag of the step stays. The first call makes an environment of
    its own, and looks whether each of the two functions takes a batch of goals: where its result on
    one differs from those row by row, it is called row by row from then on. Another process makes
    its own environment.

    It calls Python, so `vmap` does not take it. Raises EnvironmentFault, when it runs, for a
    function that fails and for a reward that is NaN.
    """

    def __init__(self, make_env: Callable[[], gymnasium.Env]):
        self.make_env = make_env
        self.env: gymnasium.Env | None = None
        self.takes_batches: dict[str, bool] = {}  # by the name of the function

    def __getstate__(self) -> dict[str, Any]:
        return {"make_env": self.make_env, "env": None, "takes_batches": {}}

    def __call__(
        self, achieved_goal: Array, desired_goal: Array, terminated: Array
    ) -> tuple[Array, Array]:
        """Return (reward, terminated), [...], of goals [..., *goal]; see `GoalReward`."""
        shapes = tuple(
            jax.ShapeDtypeStruct(terminated.shape, dtype) for dtype in (jnp.float32, jnp.bool_)
        )
        return host_call(self._compute, shapes, achieved_goal, desired_goal, terminated)

    def _compute(
        self, achieved_goal: np.ndarray, desired_goal: np.ndarray, terminated: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.env is None:
            self.env = self.make_env()
            self.env.reset(seed=0)  # some have all that they compute with after a reset alone
        space = self.env.observation_space
        assert isinstance(space, gymnasium.spaces.Dict)
        axes = terminated.ndim
        achieved, desired = (
            np.asarray(goal).astype(part.dtype).reshape(-1, *goal.shape[axes:])
            for goal, part in (
                (achieved_goal, space[ACHIEVED_GOAL]),
                (desired_goal, space[DESIRED_GOAL]),
            )
        )
        env = self.env.unwrapped
        assert isinstance(env, ComputesReward)
        reward = self._over_rows("compute_reward", env.compute_reward, achieved, desired)
        if np.isnan(reward).any():
            i = int(np.isnan(reward).argmax())
            raise EnvironmentFault(
                f"compute_reward of {type(env).__name__} is NaN where {achieved[i]} was achieved "
                f"and {desired[i]} desired"
            )
        if isinstance(env, ComputesTerminated):
            terminated = self._over_rows(
                "compute_terminated", env.compute_terminated, achieved, desired
            )
        shape = achieved_goal.shape[:axes]
        return reward.reshape(shape), terminated.reshape(shape).astype(bool)

    def _over_rows(
        self, name: str, function: Callable, achieved: np.ndarray, desired: np.ndarray
    ) -> np.ndarray:
        """The function of each pair of goals, [row]."""
        if not len(achieved):
            return np.zeros(0, np.float32)
        if name not in self.takes_batches:
            # goals that are reached beside those of the batch, so that the values differ
            few = np.concatenate([achieved[:PROBED_ROWS], desired[:PROBED_ROWS]])
            wanted = np.concatenate([desired[:PROBED_ROWS]] * 2)
            expected = self._each_row(name, function, few, wanted)
            self.takes_batches[name] = agrees_on_batch(function, few, wanted, expected)
        if not self.takes_batches[name]:
            return self._each_row(name, function, achieved, desired)
        try:
            values = np.asarray(function(achieved, desired, [{} for _ in achieved]), np.float32)
        except Exception as error:
            raise self._fault(name, f"raised {type(error).__name__}: {error}") from error
        if values.shape != (len(achieved),):
            raise self._fault(
                name, f"returned shape {values.shape} for a batch of {len(achieved)} goals"
            )
        return values

    def _each_row(
        self, name: str, function: Callable, achieved: np.ndarray, desired: np.ndarray
    ) -> np.ndarray:
        values = np.zeros(len(achieved), np.float32)
        for i, goals in enumerate(zip(achieved, desired, strict=True)):
            try:
                values[i] = np.asarray(function(*goals, {}), np.float32).item()
            except Exception as error:
                raise self._fault(name, f"raised {type(error).__name__}: {error}") from error
        return values

    def _fault(self, name: str, reason: str) -> EnvironmentFault:
        owner = type(self.env.unwrapped).__name__ if self.env else "the environment"
        return EnvironmentFault(
            f"{name} of {owner} {reason}. It gets an empty info, since no step was taken with "
            "these goals; if it needs more, give the reward of two goals with "
            "etude.register_goal_reward"
        )


def agrees_on_batch(
    function: Callable, achieved: np.ndarray, desired: np.ndarray, expected: np.ndarray
) -> bool:
    """Return whether a function of goals has the `expected` values, [row], on a batch of them."""
    try:
        values = np.asarray(function(achieved, desired, [{} for _ in achieved]), np.float32)
    except Exception:  # whatever a function of single goals does with a batch
        return False
    return values.shape == expected.shape and bool(np.allclose(values, expected, 1e-5, 1e-6))


def host_goal_reward(
    env: gymnasium.Env, make_env: Callable[[], gymnasium.Env]
) -> HostGoalReward | None:
    """The reward of the goals of `env`, which `make_env` makes; None where it has no such."""
    space = env.observation_space
    keys = space.spaces.keys() if isinstance(space, gymnasium.spaces.Dict) else set()
    has_goals = {ACHIEVED_GOAL, DESIRED_GOAL} <= keys
    is_known = has_goals and isinstance(env.unwrapped, ComputesReward)
    return HostGoalReward(make_env) if is_known else None
