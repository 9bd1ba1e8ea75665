"""Action masks: move `info["action_mask"]` of a Gymnasium environment into its observation."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from etude.errors import EnvironmentFault, InvalidInput

ACTION_MASK = "action_mask"


class ActionMaskWrapper(gymnasium.Wrapper):
    """A wrapper whose observation is a Dict of "observation" and "action_mask".

    Raises EnvironmentFault where info has no "action_mask" of the right size.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.mask_size = count_choices(env.action_space)
        mask = gymnasium.spaces.MultiBinary(self.mask_size)
        self.observation_space = gymnasium.spaces.Dict(
            {"observation": env.observation_space, ACTION_MASK: mask}
        )

    def reset(self, **options: Any) -> tuple[Any, dict]:
        observation, info = self.env.reset(**options)
        return self._with_mask(observation, info), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._with_mask(observation, info), reward, terminated, truncated, info

    def _with_mask(self, observation: Any, info: dict) -> dict[str, Any]:
        mask = np.asarray(info.get(ACTION_MASK, ())).ravel()
        if mask.size != self.mask_size:
            actual = f"one of size {mask.size}" if ACTION_MASK in info else "none"
            raise EnvironmentFault(
                f"its info should hold an {ACTION_MASK} of {self.mask_size} choices, "
                f"and holds {actual}"
            )
        return {"observation": observation, ACTION_MASK: mask}


def count_choices(space: gymnasium.Space) -> int:
    """Return the size of the action mask; raises InvalidInput for actions that have none."""
    match space:
        case gymnasium.spaces.Discrete():
            return int(space.n)
        case gymnasium.spaces.MultiDiscrete():
            return int(space.nvec.sum())
    raise InvalidInput(
        "action masks are for Discrete and MultiDiscrete actions, and this environment's are "
        f"{space}; leave --action-masks out"
    )


def make_with_action_mask(make_env: Callable[[], gymnasium.Env]) -> gymnasium.Env:
    """Make an environment whose action masks are observed."""
    return ActionMaskWrapper(make_env())
