"""Side cameras: what cameras to the left and right of a Gymnasium environment's own one see.

An environment has side cameras if it has a method `side_views`, which takes no arguments and says
what the two see in the present state, after a reset and after a step alike:

    def side_views(self):
        return {"left": (observation, correction), "right": (observation, correction)}

An observation is in the environment's observation space. The correction is what has to be added to
the action that is right for the environment's own observation, so that it is right for what this
camera sees, as if the agent stood where the camera is. It has the shape of an action and its units.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from etude.errors import EnvironmentFault, InvalidInput

SIDE_VIEWS = "side_views"  # the method
CENTER, SIDES = "center", ("left", "right")
VIEW, CORRECTION = "observation", "correction"


class SideViewsWrapper(gymnasium.Wrapper):
    """A wrapper whose observation is a Dict of "center", "left" and "right".

    "center" is the environment's own observation, the other two are Dicts of "observation" and
    "correction". Raises InvalidInput for an environment without side cameras, and for actions that
    nothing can be added to; EnvironmentFault where `side_views` returns something else.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        name = env.spec.id if env.spec else type(env.unwrapped).__name__
        if not env.has_wrapper_attr(SIDE_VIEWS):
            raise InvalidInput(
                f"{name} has no side cameras, which are a method {SIDE_VIEWS}() that says what "
                "they see and how to correct the action; leave --side-cameras out, or add it"
            )
        if not isinstance(env.action_space, gymnasium.spaces.Box):
            raise InvalidInput(
                f"side cameras correct an action by adding to it, and those of {name} are "
                f"{env.action_space}; leave --side-cameras out"
            )
        correction = gymnasium.spaces.Box(-np.inf, np.inf, env.action_space.shape, np.float32)
        side = gymnasium.spaces.Dict({VIEW: env.observation_space, CORRECTION: correction})
        self.observation_space = gymnasium.spaces.Dict(
            {CENTER: env.observation_space, **dict.fromkeys(SIDES, side)}
        )

    def reset(self, **options: Any) -> tuple[Any, dict]:
        observation, info = self.env.reset(**options)
        return self._with_sides(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._with_sides(observation), reward, terminated, truncated, info

    def _with_sides(self, observation: Any) -> dict[str, Any]:
        views = self.env.get_wrapper_attr(SIDE_VIEWS)()
        try:
            pairs = {side: (view, np.float32(by)) for side, (view, by) in views.items()}
        except (AttributeError, TypeError, ValueError):
            pairs = {}
        if pairs.keys() != set(SIDES):
            raise EnvironmentFault(
                f"its {SIDE_VIEWS}() returned {views!r:.80}; return a dict of 'left' and 'right', "
                "each an (observation, correction)"
            )
        for side, (_, correction) in pairs.items():
            if correction.shape != self.action_space.shape or not np.isfinite(correction).all():
                raise EnvironmentFault(
                    f"the correction of its {side} camera is {correction}; give finite numbers of "
                    f"the shape of an action, {self.action_space.shape}"
                )
        sides = {side: {VIEW: view, CORRECTION: by} for side, (view, by) in pairs.items()}
        return {CENTER: observation, **sides}


def make_with_side_views(make_env: Callable[[], gymnasium.Env]) -> gymnasium.Env:
    """Make an environment whose side cameras are observed."""
    return SideViewsWrapper(make_env())
