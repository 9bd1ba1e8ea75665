"""dm_control's environments, by Shimmy, with one flat observation and actions that are repeated.

Their ids are Shimmy's: dm_control/cartpole-swingup-v0 is the task swingup of the domain cartpole in
the suite of Tassa et al., "DeepMind Control Suite", 2018. Those of manipulation with features in
their name observe a state too. An episode is truncated after the time of its task, in the suite
1,000 steps.
"""

import importlib
import importlib.util
import re
import warnings
from typing import Any

import gymnasium
import numpy as np

from etude.errors import InvalidInput

NAMESPACE = "dm_control/"
STATE_IDS = re.compile(NAMESPACE + r"(\w+-\w+|\w+_features)-v\d+")  # the others observe pictures


class DmControlWrapper(gymnasium.Wrapper):
    """A wrapper of a Shimmy environment whose observation is a Dict of floats.

    The observation is float32 [n]: the parts of the Dict in the order of their names. A step is
    `action_repeat` steps of dm_control, or fewer where the episode ends, with the sum of their
    rewards.
    """

    def __init__(self, env: gymnasium.Env, action_repeat: int = 1):
        super().__init__(env)
        self.action_repeat = action_repeat
        flat = gymnasium.spaces.flatten_space(env.observation_space)
        assert isinstance(flat, gymnasium.spaces.Box)
        low, high = np.float32(flat.low), np.float32(flat.high)
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        # pictures a second: Shimmy's number is another
        time_step = env.get_wrapper_attr("dt")  # s
        self.metadata = {**env.metadata, "render_fps": 1 / (time_step * action_repeat)}

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        observation, info = self.env.reset(**options)
        return self._flat(observation), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        total = 0.0
        for _ in range(self.action_repeat):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return self._flat(observation), total, terminated, truncated, info

    def _flat(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        flat = gymnasium.spaces.flatten(self.env.observation_space, observation)
        return np.asarray(flat, np.float32)


def has_dm_control() -> bool:
    """Return whether dm_control and Shimmy are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("dm_control", "shimmy"))


def register_dm_control() -> None:
    """Register Shimmy's ids of dm_control with Gymnasium."""
    with warnings.catch_warnings():  # dm_control's, of a screen that is not there
        warnings.simplefilter("ignore")
        importlib.import_module("shimmy")


def make_dm_control(env_id: str, action_repeat: int = 1, **options: Any) -> gymnasium.Env:
    """Make an environment of dm_control; `options` are those of `gymnasium.make`.

    Another process can make it too, which it cannot from Shimmy's own entry of the registry. Raises
    InvalidInput for one that observes pictures, and for fewer repeats than one.
    """
    if not STATE_IDS.fullmatch(env_id):
        raise InvalidInput(
            f"{env_id} observes pictures, and etude takes the state of dm_control's environments; "
            f"choose one of its suite, {NAMESPACE}<domain>-<task>-v0, or one with features in its "
            "name"
        )
    if not isinstance(action_repeat, int) or action_repeat < 1:
        raise InvalidInput(f"action_repeat is {action_repeat!r}; it must be at least 1, and whole")
    register_dm_control()
    return DmControlWrapper(gymnasium.make(env_id, **options), action_repeat)
