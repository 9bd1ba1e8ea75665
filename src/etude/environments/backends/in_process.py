"""Vectorized Gymnasium environments, stepped one after another in a Python loop.

The results of a step cross to the compiled loop as one array of bytes with a row for each
environment; `StepLayout` says where each field lies. This module needs NumPy alone, so that worker
processes start without JAX.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

from etude.environments.wrappers.action_mask import ACTION_MASK
from etude.errors import EnvironmentFault

SUCCESS = "is_success"  # the key of Gymnasium-Robotics in the info of a step


class StepLayout:
    """The layout of a row of bytes, which holds the step of one environment.

    A row has the observation to act on next, the true next observation, reward, terminated,
    truncated and the number of steps taken.

    leaves   of the observation: (path into the value, dtype in JAX, shape, the number its choices
             count from or None)
    action   (dtype in which it crosses, shape, dtype that the environment takes or None for a
             Python integer)
    choices  the number of actions of each component of Discrete and MultiDiscrete actions
    """

    def __init__(
        self,
        leaves: Sequence[tuple[tuple, str, tuple[int, ...], Any]],
        action: tuple[str, tuple[int, ...], str | None],
        choices: Sequence[int] = (),
    ):
        self.leaves = list(leaves)
        # where the mask of one component of an action ends and the next begins
        self.mask_splits = np.cumsum(choices)[:-1]
        self.mask_leaves = [
            i for i, (path, *_) in enumerate(self.leaves) if path[-1:] == (ACTION_MASK,) and choices
        ]
        self.action_dtype, self.action_shape, self.native_dtype = action
        fields = [
            (f"{role}{i}", dtype, shape)
            for role in ("observation", "next_observation")
            for i, (_, dtype, shape, _) in enumerate(self.leaves)
        ]
        self.dtype = np.dtype(
            [*fields, ("reward", "f4"), ("terminated", "u1"), ("truncated", "u1"), ("steps", "i4")]
        )
        # name: (dtype, first byte)
        self.fields = {name: field[:2] for name, field in (self.dtype.fields or {}).items()}


class InProcessEnvs:
    """A batch of `count` environments; errors number them from `first` on."""

    def __init__(
        self,
        make_env: Callable[[], gymnasium.Env],
        count: int,
        layout: StepLayout,
        first_index: int = 0,
    ):
        self.envs = [make_env() for _ in range(count)]
        self.name = getattr(self.envs[0].spec, "id", type(self.envs[0].unwrapped).__name__)
        self.first_index, self.layout = first_index, layout
        self.rows = np.zeros(count, layout.dtype)
        self.steps = [0] * count  # taken by each environment
        # of each environment's finished episodes that say so, by `is_success` of their last info
        self.successes: list[list[bool]] = [[] for _ in range(count)]
        self.observation, self.next_observation = (
            [self.rows[f"{role}{i}"] for i in range(len(layout.leaves))]
            for role in ("observation", "next_observation")
        )
        self.float_fields = [
            (name, self.rows[name])
            for name in layout.dtype.names
            if self.rows[name].dtype.kind == "f"
        ]

    def reset(self, seed: int) -> np.ndarray:
        """Reset every environment with a seed made of `seed` and its number; [count, byte]."""
        self.successes = [[] for _ in self.envs]
        for i, env in enumerate(self.envs):
            env_seed = np.random.SeedSequence([seed, self.first_index + i]).generate_state(1)[0]
            try:
                observation, _ = env.reset(seed=int(env_seed))
                self._write(self.observation, i, observation)
                self._write(self.next_observation, i, observation)
            except Exception as error:
                raise self._fault(i, error) from error
        self.rows["reward"], self.rows["terminated"], self.rows["truncated"] = 0, 0, 0
        return self._row_bytes()

    def step(self, actions: np.ndarray) -> np.ndarray:
        """Step every environment and reset those that are done; rows of bytes [count, byte]."""
        rows = self.rows
        dtype = self.layout.native_dtype
        env_actions = actions.tolist() if dtype is None else actions.astype(dtype)
        for i, env in enumerate(self.envs):
            self.steps[i] += 1
            try:
                next_observation, rows["reward"][i], terminated, truncated, info = env.step(
                    env_actions[i]
                )
                self._write(self.next_observation, i, next_observation)
                rows["terminated"][i], rows["truncated"][i] = terminated, truncated
                observation = next_observation
                if terminated or truncated:
                    if SUCCESS in info:
                        self.successes[i].append(bool(info[SUCCESS]))
                    observation = env.reset()[0]
                self._write(self.observation, i, observation)
            except Exception as error:
                raise self._fault(i, error) from error
        return self._row_bytes()

    def close(self) -> None:
        for env in self.envs:
            env.close()

    def _write(self, fields: list[np.ndarray], i: int, value: Any) -> None:
        for field, (path, _, shape, offset) in zip(fields, self.layout.leaves, strict=True):
            leaf = value
            for key in path:
                leaf = leaf[key]
            if np.shape(leaf) != shape:
                where = "".join(f"[{key!r}]" for key in path)
                raise EnvironmentFault(
                    f"its observation{where} has shape {np.shape(leaf)}, and its space says {shape}"
                )
            field[i] = leaf if offset is None else leaf - offset
        for mask in self.layout.mask_leaves if fields is self.observation else ():
            if not all(
                leaf.any() for leaf in np.split(self.observation[mask][i], self.layout.mask_splits)
            ):
                raise EnvironmentFault(f"its {ACTION_MASK} allows nothing, and play goes on")

    def _row_bytes(self) -> np.ndarray:
        for name, values in self.float_fields:
            if values.size and math.isnan(values.min()):
                i = int(np.argwhere(np.isnan(values))[0][0])
                quantity = "reward" if name == "reward" else "observation"
                raise self._fault(i, EnvironmentFault(f"its {quantity} is NaN"))
        self.rows["steps"] = self.steps
        return self.rows.view(np.uint8).reshape(len(self.rows), -1).copy()

    def _fault(self, i: int, error: Exception) -> EnvironmentFault:
        reason = (
            error
            if isinstance(error, EnvironmentFault)
            else f"it raised {type(error).__name__}: {error}"
        )
        when = f"at its step {self.steps[i]}" if self.steps[i] else "at its first reset"
        return EnvironmentFault(
            f"copy {self.first_index + i} of {self.name} failed {when}: {reason}"
        )
