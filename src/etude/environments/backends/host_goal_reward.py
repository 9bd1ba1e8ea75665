"""The reward of goals that a Gymnasium environment computes itself, called from compiled code."""

from collections.abc import Callable
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from etude.environments.backends.host_callback import host_call
from etude.errors import EnvironmentFault
from etude.spaces import ACHIEVED_GOAL, DESIRED_GOAL
from etude.types import Array

REWARD, TERMINATED = "compute_reward", "compute_terminated"  # names of Gymnasium-Robotics
PROBED_ROWS = 32  # of the first call, by which a function shows whether it takes batches


class HostGoalReward:
    """`compute_reward` of a Gymnasium environment, and its `compute_terminated` if it has one.

    Both may be methods of a wrapper (Gymnasium-Robotics has them). Without `compute_terminated` the
    flag of the step stays. The first call makes an environment of its own, and calls each of the
    two functions on a batch of goals and on each pair alone: where the results differ, it calls the
    function pair by pair from then on. After unpickling, it makes a new environment.

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
            self.env.reset(seed=0)  # some set in `reset` what they compute with
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
        reward = self._over_rows(REWARD, achieved, desired)
        if np.isnan(reward).any():
            i = int(np.isnan(reward).argmax())
            raise EnvironmentFault(
                f"{REWARD} of {type(self.env.unwrapped).__name__} is NaN where {achieved[i]} was "
                f"achieved and {desired[i]} desired; make it a number"
            )
        if self.env.has_wrapper_attr(TERMINATED):
            terminated = self._over_rows(TERMINATED, achieved, desired)
        shape = achieved_goal.shape[:axes]
        return reward.reshape(shape), terminated.reshape(shape).astype(bool)

    def _over_rows(self, name: str, achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
        """The environment's function called `name` of each pair of goals, [row]."""
        assert self.env is not None
        function = self.env.get_wrapper_attr(name)
        if not len(achieved):
            return np.zeros(0, np.float32)
        if name not in self.takes_batches:
            # beside goals of the batch some that are reached, so that the values differ
            probe_achieved = np.concatenate([achieved[:PROBED_ROWS], desired[:PROBED_ROWS]])
            probe_desired = np.concatenate([desired[:PROBED_ROWS]] * 2)
            expected = self._each_row(name, function, probe_achieved, probe_desired)
            self.takes_batches[name] = agrees_on_batch(
                function, probe_achieved, probe_desired, expected
            )
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
                value = np.asarray(function(*goals, {}), np.float32)
            except Exception as error:
                raise self._fault(name, f"raised {type(error).__name__}: {error}") from error
            if value.size != 1:
                raise self._fault(name, f"returned shape {value.shape} for one pair of goals")
            values[i] = value.item()
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
    """The reward of the goals of `env`, which `make_env` makes; None where it computes none."""
    space = env.observation_space
    keys = space.spaces.keys() if isinstance(space, gymnasium.spaces.Dict) else set()
    has_goals = {ACHIEVED_GOAL, DESIRED_GOAL} <= keys
    is_known = has_goals and env.has_wrapper_attr(REWARD)
    return HostGoalReward(make_env) if is_known else None
