"""An environment of zeros, for what is computed from shapes alone and where nothing plays."""

from typing import Any

import jax
import jax.numpy as jnp

from etude.environments.protocol import StepResult
from etude.spaces import EnvironmentSpec
from etude.types import Array


class ZeroEnvs:
    """Stands for environments with a given spec where only their shapes count.

    Nothing is made: observations and rewards are zero, and no episode ends. It is `functional`
    where what it stands for can be saved, and its state has the shapes of what it stands for: one
    count for each of `counted` environments in Python.
    """

    replayer = None

    def __init__(self, spec: EnvironmentSpec, functional: bool = False, counted: bool = False):
        self.spec, self.functional, self.counted = spec, functional, counted

    def reset(self, key: Array) -> tuple[Any, Any]:
        state = jnp.zeros(self.spec.num_envs, jnp.int32) if self.counted else ()
        return state, self._observation()

    def step(self, state: Any, action: Any, key: Array) -> tuple[Any, Any, StepResult]:
        observation, zeros = self._observation(), jnp.zeros(self.spec.num_envs, jnp.float32)
        return state, observation, StepResult(observation, zeros, zeros > 0, zeros > 0)

    def notices(self) -> list[str]:
        """Return []: no value comes from Python."""
        return []

    def successes(self) -> list[list[bool]]:
        """Return []: these environments do not say whether an episode was a success."""
        return []

    def cancel(self) -> None:
        """Do nothing: no step calls Python."""

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _observation(self) -> Any:
        return jax.tree.map(
            lambda x: jnp.zeros((self.spec.num_envs, *x.shape), x.dtype),
            self.spec.observation.zeros(),
        )
