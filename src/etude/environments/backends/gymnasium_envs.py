"""Any Gymnasium environment, stepped by a callback from inside the compiled loop."""

import threading
from collections.abc import Callable
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from etude import spaces
from etude.environments.backends.host_callback import host_call
from etude.environments.backends.in_process import InProcessEnvs, StepLayout
from etude.environments.backends.worker_processes import WorkerEnvs
from etude.environments.protocol import StepResult
from etude.spaces import EnvironmentSpec, space_from_gymnasium, to_environment_action
from etude.types import Array


class GymnasiumEnvs:
    """Copies of a Gymnasium environment in this process, or shared out over `workers` processes
    when it is slow.

    The state lives in the simulators; ours is the steps they say they took, [env], so that it
    follows from every call. An exception inside a step is kept in `failure`, because what comes out
    of a compiled loop is JAX's own; setting `cancelled` stops the loop at its next step.
    """

    functional = False
    deterministic_reset = True

    def __init__(self, make: Callable[[], gymnasium.Env], num_envs: int, workers: int = 0):
        probe = make()
        self.spec = EnvironmentSpec(
            space_from_gymnasium(probe.observation_space),
            space_from_gymnasium(probe.action_space, "action"),
            num_envs,
        )
        probe.close()
        self.layout = make_layout(self.spec)
        self.copies = (
            WorkerEnvs(make, num_envs, self.layout, workers)
            if workers
            else InProcessEnvs(make, num_envs, self.layout)
        )
        self.rows = jax.ShapeDtypeStruct((num_envs, self.layout.dtype.itemsize), jnp.uint8)
        self.failure: BaseException | None = None
        self.cancelled = threading.Event()

    def reset(self, key: Array) -> tuple[Array, Any]:
        rows = host_call(self._reset, self.rows, jax.random.bits(key))
        return self._steps(rows), self._unpack(rows)[0]

    def step(self, state: Array, action: Any, key: Array) -> tuple[Array, Any, StepResult]:
        rows = host_call(self._step, self.rows, to_environment_action(self.spec.action, action))
        return self._steps(rows), *self._unpack(rows)

    def close(self) -> None:
        self.copies.close()

    def _reset(self, seed):
        return self._guard(self.copies.reset, int(seed))

    def _step(self, action):
        return self._guard(self.copies.step, np.asarray(action, self.layout.action_dtype))

    def _guard(self, call, argument):
        try:
            if self.cancelled.is_set():
                raise KeyboardInterrupt
            return call(argument)
        except BaseException as error:
            self.failure = error
            raise

    def _steps(self, rows: Array) -> Array:
        return array_from_bytes(rows, *self.layout.fields["steps"])

    def _unpack(self, rows: Array) -> tuple[Any, StepResult]:
        """The observation to act on and the outcome, from the bytes of `rows`."""
        fields = {
            name: array_from_bytes(rows, dtype, start)
            for name, (dtype, start) in self.layout.fields.items()
        }
        structure = jax.tree.structure(self.spec.observation.zeros())
        observation, successor = (
            jax.tree.unflatten(
                structure, [fields[f"{part}{i}"] for i in range(len(self.layout.leaves))]
            )
            for part in ("observation", "successor")
        )
        return observation, StepResult(
            successor, fields["reward"], fields["terminated"] != 0, fields["truncated"] != 0
        )


def make_layout(spec: EnvironmentSpec) -> StepLayout:
    """The rows in which copies of this spec tell their steps."""
    zeros = zip(
        spaces.leaves_with_path(spec.observation),
        jax.tree.leaves(spec.observation.zeros()),
        strict=True,
    )
    action = spec.action.zeros()
    return StepLayout(
        [
            (path, zero.dtype.name, zero.shape, spaces.action_offset(leaf))
            for (path, leaf), zero in zeros
        ],
        (action.dtype.name, action.shape, spaces.gymnasium_dtype(spec.action)),
        choice_counts(spec.action),
    )


def choice_counts(space: spaces.Space) -> tuple[int, ...]:
    """How many choices each part of an action has; () where actions are not choices."""
    match space:
        case spaces.Discrete():
            return (space.n,)
        case spaces.MultiDiscrete():
            return space.sizes
    return ()


def array_from_bytes(rows: Array, dtype: np.dtype, start: int) -> Array:
    """The field of `dtype` (a scalar or a subarray) that begins at byte `start` of rows [env,
    bytes], as [env, *shape]."""
    part = rows[:, start : start + dtype.itemsize].reshape(
        len(rows), *dtype.shape, dtype.base.itemsize
    )
    if dtype.base == np.bool_:
        return part[..., 0] != 0
    return jax.lax.bitcast_convert_type(
        part if dtype.base.itemsize > 1 else part[..., 0], dtype.base
    )
