"""EnvPool environments, stepped in C++ from inside the compiled loop (Weng et al., 2022)."""

import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etude import spaces
from etude.cores import num_cores
from etude.environments.backends.host_callback import host_call
from etude.environments.protocol import StepResult
from etude.errors import InvalidInput
from etude.spaces import (
    EnvironmentSpec,
    GoalRewardFunction,
    space_from_gymnasium,
    to_environment_action,
)
from etude.types import Array


class EnvPoolEnvs:
    """A batch of EnvPool environments; the pool's XLA handle is the environment state.

    EnvPool seeds its generators once, when the pool is made, so `reset` starts new episodes and
    ignores its key: a resumed run is valid, but does not repeat bit for bit.
    """

    functional = False
    replayer = None

    def __init__(
        self,
        name: str,
        num_envs: int,
        seed: int = 0,
        num_threads: int | None = None,
        goal_reward: GoalRewardFunction | None = None,
        max_episode_steps: int | None = None,
    ):
        import envpool  # an optional dependency

        thread_count = num_threads or min(num_envs, threads_for(name))
        own_limit = envpool.make_spec(name).config.max_episode_steps
        self.pool = envpool.make(
            name,
            env_type="gymnasium",
            num_envs=num_envs,
            seed=seed,
            num_threads=thread_count,
            max_episode_steps=min(own_limit, max_episode_steps or own_limit),
        )
        self.spec = envpool_spec(name, num_envs, goal_reward)
        self.handle, _, _, self.xla_step = self.pool.xla()
        zeros = self.spec.observation.zeros()
        self.observation_shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((num_envs, *x.shape), x.dtype), zeros
        )

    def reset(self, key: Array) -> tuple[Array, Any]:
        all_done, zeros = (
            jnp.ones(self.spec.num_envs, bool),
            jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.observation_shapes),
        )
        return jnp.asarray(self.handle), host_call(
            self._reset_done, self.observation_shapes, all_done, zeros
        )

    def step(self, handle: Array, action: Any, key: Array) -> tuple[Array, Any, StepResult]:
        handle, (next_observation, reward, terminated, truncated, _) = self.xla_step(
            handle, self._native_action(action)
        )
        next_observation = jax.tree.map(
            lambda x, shape: x.astype(shape.dtype), next_observation, self.observation_shapes
        )
        done = terminated | truncated
        observation = jax.lax.cond(
            done.any(),
            lambda: host_call(self._reset_done, self.observation_shapes, done, next_observation),
            lambda: next_observation,
        )
        return (
            handle,
            observation,
            StepResult(next_observation, reward.astype(jnp.float32), terminated, truncated),
        )

    def notices(self) -> list[str]:
        """Return []: no value comes from Python."""
        return []

    def successes(self) -> list[list[bool]]:
        """Return []: these environments do not say whether an episode was a success."""
        return []

    def cancel(self) -> None:
        """Do nothing: a pool steps in C++, and is not interrupted."""

    def close(self) -> None:
        self.pool.close()

    def _native_action(self, action):
        action = to_environment_action(self.spec.action, action)
        return action if isinstance(self.spec.action, spaces.Box) else action.astype(jnp.int32)

    def _reset_done(self, done, observation):
        indices = np.flatnonzero(done).astype(np.int32)
        first_observation, _ = self.pool.reset(indices)

        def write(old, new):
            old = np.array(old)
            old[indices] = new
            return old

        return jax.tree.map(write, observation, first_observation)


def envpool_spec(
    name: str, num_envs: int, goal_reward: GoalRewardFunction | None = None
) -> EnvironmentSpec:
    """The spec of an EnvPool environment, without a pool; raises InvalidInput for float64.

    `goal_reward` is that of the Gymnasium environment, since a pool has none.
    """
    import envpool

    pool_spec = envpool.make_spec(name)
    spec = EnvironmentSpec(
        space_from_gymnasium(pool_spec.gymnasium_observation_space),
        space_from_gymnasium(pool_spec.gymnasium_action_space, "action"),
        num_envs,
        name,
        goal_reward,
    )
    leaves = (*dict(spaces.leaves_with_path(spec.observation)).values(), spec.action)
    if any(getattr(leaf, "dtype", "") == "float64" for leaf in leaves):
        raise InvalidInput(
            f"{name} on EnvPool has float64 values, which a float32 program cannot take; choose "
            "--backend gymnasium"
        )
    return spec


def threads_for(name: str) -> int:
    """The number of threads for a pool: one for each usable core, half of that for cheap steps.

    Threads beyond that take cores from the learner.
    """
    cores = num_cores()
    return max(1, cores // 2) if is_cheap(name) else cores


def is_cheap(name: str) -> bool:
    """Whether a step of an environment takes EnvPool about a microsecond, and not many."""
    from envpool.registration import registry

    family = registry.specs[name][0]  # the module of the environment
    return family in ("envpool.classic_control", "envpool.toy_text")


def supports(name: str) -> bool:
    """Return whether EnvPool is installed and has this environment with spaces etude can take.

    Boxes must be float32 or uint8. Other integer boxes stand for what Gymnasium, on which policies
    are evaluated, shows as a Tuple of Discrete spaces (Blackjack).
    """
    if importlib.util.find_spec("envpool") is None:
        return False
    import envpool

    if name not in envpool.list_all_envs():
        return False
    spec = envpool.make_spec(name)
    leaves = [
        leaf
        for space in (spec.gymnasium_observation_space, spec.gymnasium_action_space)
        for _, leaf in spaces.leaves_with_path(space_from_gymnasium(space))
    ]
    dtypes = {leaf.dtype for leaf in leaves if isinstance(leaf, spaces.Box)}
    return dtypes <= {"float32", "uint8"}
