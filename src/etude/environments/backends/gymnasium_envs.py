"""Gymnasium environments, stepped by a host callback from inside the compiled loop."""

import threading
from collections.abc import Callable
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from etude import spaces
from etude.environments.backends.episode_log import EpisodeLog
from etude.environments.backends.host_callback import host_call
from etude.environments.backends.host_goal_reward import host_goal_reward
from etude.environments.backends.in_process import NO_LIMITS, HostLimits, InProcessEnvs
from etude.environments.backends.step_layout import ObservationLeaf, StepLayout
from etude.environments.backends.watchdog import TIMEOUT, time_limit
from etude.environments.backends.worker_processes import WorkerEnvs
from etude.environments.protocol import StepResult
from etude.errors import InvalidInput
from etude.spaces import (
    EnvironmentSpec,
    space_from_gymnasium,
    space_to_gymnasium,
    to_environment_action,
)
from etude.struct import replace
from etude.types import Array


class GymnasiumEnvs:
    """A batch of Gymnasium environments in this process, or in `workers` processes when slow.

    The simulators hold the real state. The state here is the number of steps that each of them has
    taken, [env], so that it depends on every call. Without a `spec`, one more environment is made
    to read it.
    """

    functional = False

    def __init__(
        self,
        make_env: Callable[[], gymnasium.Env],
        num_envs: int,
        workers: int = 0,
        spec: EnvironmentSpec | None = None,
        limits: HostLimits = NO_LIMITS,
    ):
        spec = spec or spec_from_factory(make_env, limits.timeout)
        self.spec = replace(spec, num_envs=num_envs)
        self.layout, self.limits = make_layout(self.spec), limits
        self.vector_env = (
            WorkerEnvs(make_env, num_envs, self.layout, workers, limits)
            if workers
            else InProcessEnvs(make_env, num_envs, self.layout, limits=limits)
        )
        self.rows_shape = jax.ShapeDtypeStruct((num_envs, self.layout.dtype.itemsize), jnp.uint8)
        self.cancelled = threading.Event()

    def reset(self, key: Array) -> tuple[Array, Any]:
        rows = host_call(self._reset, self.rows_shape, jax.random.bits(key, dtype=jnp.uint32))
        return self._steps(rows), self._unpack(rows)[0]

    def step(self, state: Array, action: Any, key: Array) -> tuple[Array, Any, StepResult]:
        rows = host_call(
            self._step, self.rows_shape, to_environment_action(self.spec.action, action)
        )
        return self._steps(rows), *self._unpack(rows)

    @property
    def replayer(self) -> "GymnasiumEnvs | None":
        """Itself, where episodes are logged: they are deterministic given seeds and actions."""
        return self if self.limits.replay else None

    def episode_log(self) -> EpisodeLog:
        """What the running episodes are replayed from."""
        return self.vector_env.episode_log()

    def replay(self, state: Array, log: EpisodeLog) -> tuple[Array, Any, list[str]]:
        """The state and the observation to act on after a replay of the episodes in `log`.

        The third value says for each copy why its episode could not be replayed, so that a new one
        has begun; it is "" where it could. `state` is that in which the log was taken.
        """
        # arrays of a checkpoint are JAX's
        rows, reasons = self.vector_env.replay(EpisodeLog(*map(np.asarray, log)))
        return self._steps(jnp.asarray(rows)), self._unpack(jnp.asarray(rows))[0], reasons

    def notices(self) -> list[str]:
        """What a person should know of these environments, each once."""
        return self.vector_env.notices()

    def successes(self) -> list[list[bool]]:
        """Whether each finished episode was a success, by `is_success` in its last info.

        It is [] for environments in worker processes.
        """
        return self.vector_env.successes if isinstance(self.vector_env, InProcessEnvs) else []

    def cancel(self) -> None:
        """Stop the loop at its next step; from another thread."""
        self.cancelled.set()

    def close(self) -> None:
        self.vector_env.close()

    def _reset(self, seed):
        self._check_cancelled()
        return self.vector_env.reset(int(seed))

    def _step(self, action):
        self._check_cancelled()
        return self.vector_env.step(np.asarray(action, self.layout.action_dtype))

    def _check_cancelled(self):
        if self.cancelled.is_set():
            raise KeyboardInterrupt

    def _steps(self, rows: Array) -> Array:
        return array_from_bytes(rows, *self.layout.fields["steps"])

    def _unpack(self, rows: Array) -> tuple[Any, StepResult]:
        """Decode the bytes of `rows` to the observation to act on and the step result."""
        fields = {
            name: array_from_bytes(rows, dtype, start)
            for name, (dtype, start) in self.layout.fields.items()
        }
        structure = jax.tree.structure(self.spec.observation.zeros())
        observation, next_observation = (
            jax.tree.unflatten(
                structure, [fields[f"{role}{i}"] for i in range(len(self.layout.leaves))]
            )
            for role in ("observation", "next_observation")
        )
        return observation, StepResult(
            next_observation, fields["reward"], fields["terminated"] != 0, fields["truncated"] != 0
        )


def spec_from_factory(
    make_env: Callable[[], gymnasium.Env], timeout: float = TIMEOUT
) -> EnvironmentSpec:
    """Make an environment, read its spec and close it."""
    with time_limit(timeout, "making an environment"):
        env = make_env()
        try:
            return spec_from_env(env, make_env)
        finally:
            env.close()


def spec_from_env(env: gymnasium.Env, make_env: Callable[[], gymnasium.Env]) -> EnvironmentSpec:
    """The spec of one Gymnasium environment, of those that `make_env` makes.

    Raises InvalidInput for spaces that etude lacks.
    """
    observation_space = space_from_gymnasium(env.observation_space)
    if not spaces.leaves_with_path(observation_space):
        raise InvalidInput(
            f"the observation space is {env.observation_space}, which holds nothing; observe at "
            "least one number"
        )
    return EnvironmentSpec(
        observation_space,
        space_from_gymnasium(env.action_space, "action"),
        1,
        env.spec.id if env.spec else "",
        host_goal_reward(env, make_env),
    )


def check_reset(env: gymnasium.Env, spec: EnvironmentSpec, timeout: float) -> None:
    """Reset an environment, and compare what it returns with its spaces.

    Raises EnvironmentFault for a reset that fails, or takes longer than `timeout` seconds.
    """
    envs = InProcessEnvs(lambda: env, 1, make_layout(spec), limits=HostLimits(timeout=timeout))
    try:
        envs.reset(0)
    finally:
        envs.watchdog.close()


def make_layout(spec: EnvironmentSpec) -> StepLayout:
    """Return the byte layout of the steps of environments with this spec, without starting JAX."""
    leaves_and_zeros = zip(
        spaces.leaves_with_path(spec.observation),
        jax.tree.leaves(jax.eval_shape(spec.observation.zeros)),
        strict=True,
    )
    return StepLayout(
        space_to_gymnasium(spec.observation),
        space_to_gymnasium(spec.action),
        [
            ObservationLeaf(path, zero.dtype.name, space_to_gymnasium(leaf))
            for (path, leaf), zero in leaves_and_zeros
        ],
        jax.eval_shape(spec.action.zeros).dtype.name,
        spaces.gymnasium_dtype(spec.action),
        choice_counts(spec.action),
    )


def choice_counts(space: spaces.Space) -> tuple[int, ...]:
    """Return the number of actions of each component; () where actions are continuous."""
    match space:
        case spaces.Discrete():
            return (space.n,)
        case spaces.MultiDiscrete():
            return space.sizes
    return ()


def array_from_bytes(rows: Array, dtype: np.dtype, start: int) -> Array:
    """Decode the field of `dtype` at byte `start` of `rows` [env, byte] as [env, *shape].

    The dtype is a scalar or a subarray.
    """
    field_bytes = rows[:, start : start + dtype.itemsize].reshape(
        len(rows), *dtype.shape, dtype.base.itemsize
    )
    if dtype.base == np.bool_:
        return field_bytes[..., 0] != 0
    return jax.lax.bitcast_convert_type(
        field_bytes if dtype.base.itemsize > 1 else field_bytes[..., 0], dtype.base
    )
