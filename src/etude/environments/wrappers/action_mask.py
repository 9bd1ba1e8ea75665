"""Which choices are allowed, from where Gymnasium environments say it to where a policy sees it."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from etude.errors import EnvironmentFault, InvalidInput

ACTION_MASK = "action_mask"


class ActionMaskWrapper(gymnasium.Wrapper):
    """An environment whose `info["action_mask"]` is part of its observation, a Dict of
    "observation" and "action_mask".

    Raises EnvironmentFault where there is no mask of the right size.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.choices = count_choices(env.action_space)
        mask = gymnasium.spaces.MultiBinary(self.choices)
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
        mask = np.asarray(info.get(ACTION_MASK, ()), np.int8).ravel()
        if mask.size != self.choices:
            told = f"one of size {mask.size}" if ACTION_MASK in info else "none"
            raise EnvironmentFault(
                f"its info should hold an {ACTION_MASK} of {self.choices} choices, and holds {told}"
            )
        return {"observation": observation, ACTION_MASK: mask}


def count_choices(space: gymnasium.Space) -> int:
    """How many choices there are to allow or not; raises InvalidInput where there are none."""
    match space:
        case gymnasium.spaces.Discrete():
            return int(space.n)
        case gymnasium.spaces.MultiDiscrete():
            return int(space.nvec.sum())
    raise InvalidInput(
        "action masks are for Discrete and MultiDiscrete actions, and this environment's are "
        f"{space}; "
        "leave --action-masks out"
    )


def make_with_action_mask(make: Callable[[], gymnasium.Env]) -> gymnasium.Env:
    """An environment as `make` makes it, its masks observed."""
    return ActionMaskWrapper(make())
