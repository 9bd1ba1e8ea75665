"""EnvPool's environments, stepped in C++ from inside the compiled loop (Weng et al., 2022)."""

import importlib.util
import os
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from etude import spaces
from etude.environments.backends.host_callback import host_call
from etude.environments.protocol import StepResult
from etude.errors import InvalidInput
from etude.spaces import EnvironmentSpec, space_from_gymnasium, to_environment_action
from etude.types import Array


class EnvPoolEnvs:
    """Copies of an EnvPool environment; its XLA handle is the environment state.

    EnvPool seeds its generators once, when the pool is made, so `reset` restarts play without
    repeating it: a run resumed here goes on soundly, yet not bit for bit.
    """

    functional = False
    deterministic_reset = False

    def __init__(self, name: str, num_envs: int, seed: int = 0, num_threads: int | None = None):
        import envpool  # an extra

        threads = num_threads or min(num_envs, threads_for(name))
        self.pool = envpool.make(
            name, env_type="gymnasium", num_envs=num_envs, seed=seed, num_threads=threads
        )
        self.spec = EnvironmentSpec(
            space_from_gymnasium(self.pool.observation_space),
            space_from_gymnasium(self.pool.action_space, "action"),
            num_envs,
        )
        if wide := [
            leaf.dtype
            for leaf in (
                *dict(spaces.leaves_with_path(self.spec.observation)).values(),
                self.spec.action,
            )
            if getattr(leaf, "dtype", "") == "float64"
        ]:
            raise InvalidInput(
                f"{name} on EnvPool speaks {wide[0]}, which does not cross into a float32 program; "
                "choose --backend gymnasium"
            )
        self.handle, _, _, self.xla_step = self.pool.xla()
        zeros = self.spec.observation.zeros()
        self.batch = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((num_envs, *x.shape), x.dtype), zeros
        )

    def reset(self, key: Array) -> tuple[Array, Any]:
        everyone, nothing = (
            jnp.ones(self.spec.num_envs, bool),
            jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.batch),
        )
        return jnp.asarray(self.handle), host_call(self._restart, self.batch, everyone, nothing)

    def step(self, handle: Array, action: Any, key: Array) -> tuple[Array, Any, StepResult]:
        handle, (successor, reward, terminated, truncated, _) = self.xla_step(
            handle, self._native(action)
        )
        successor = jax.tree.map(lambda x, like: x.astype(like.dtype), successor, self.batch)
        done = terminated | truncated
        observation = jax.lax.cond(
            done.any(),
            lambda: host_call(self._restart, self.batch, done, successor),
            lambda: successor,
        )
        return (
            handle,
            observation,
            StepResult(successor, reward.astype(jnp.float32), terminated, truncated),
        )

    def close(self) -> None:
        self.pool.close()

    def _native(self, action):
        action = to_environment_action(self.spec.action, action)
        return action if isinstance(self.spec.action, spaces.Box) else action.astype(jnp.int32)

    def _restart(self, done, observation):
        rows = np.flatnonzero(done).astype(np.int32)
        first, _ = self.pool.reset(rows)

        def put(old, new):
            old = np.array(old)
            old[rows] = new
            return old

        return jax.tree.map(put, observation, first)


def threads_for(name: str) -> int:
    """Threads that step a pool best: one a core, or half of that where a step is so light that they
    rob the learner."""
    from envpool.registration import registry

    family = registry.specs[name][0]  # the module it lives in
    light = family in ("envpool.classic_control", "envpool.toy_text")
    cores = os.cpu_count() or 1
    return max(1, cores // 2) if light else cores


def supports(name: str) -> bool:
    """Whether EnvPool is installed and has this environment with float32 or image spaces, or
    choices.

    An array of integers stands there for what Gymnasium, the judge, shows as a Tuple of choices
    (Blackjack).
    """
    if importlib.util.find_spec("envpool") is None:
        return False
    import envpool

    if name not in envpool.list_all_envs():
        return False
    spec = envpool.make_spec(name)
    boxes = [
        space
        for space in (spec.gymnasium_observation_space, spec.gymnasium_action_space)
        if isinstance(space, gymnasium.spaces.Box)
    ]
    return all(space.dtype in (np.float32, np.uint8) for space in boxes)
