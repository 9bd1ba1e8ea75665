"""The pendulum swing-up with noise on the action, in JAX: a task on which plans go wrong."""

from typing import Any

import jax

from etude.environments.classic.pendulum import Pendulum
from etude.environments.protocol import StepResult
from etude.environments.tasks.noisy_pendulum_env import MAX_STEPS, TORQUE_NOISE
from etude.environments.wrappers.time_limit import TimeLimit
from etude.struct import struct
from etude.types import Array


@struct
class NoisyPendulum(Pendulum):
    """Pendulum-v1 whose torque is the action plus normal noise of 1 N m, clipped to 2 N m."""

    torque_noise: float = TORQUE_NOISE  # N m

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, StepResult]:
        torque = action + self.torque_noise * jax.random.normal(key, action.shape)
        return super().step(state, torque, key)


def limited_noisy_pendulum(**parameters: Any) -> TimeLimit:
    """The task with the time limit of its registration."""
    return TimeLimit(NoisyPendulum(**parameters), MAX_STEPS)
