"""Resuming a run whose environments cannot be saved: their episodes are replayed, or cut off."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from etude.algorithms.protocol import NOTHING, Algorithm, Outside
from etude.environments.backends.episode_log import EpisodeLog
from etude.environments.protocol import Environment, Replayer
from etude.rollout import RolloutState, bind_policy
from etude.struct import replace
from etude.training import TrainState, init_rollout, run_compiled, split_run_key
from etude.trees import where_done
from etude.types import Array


def resume_rollout(
    algorithm: Algorithm,
    environment: Environment,
    train_state: TrainState,
    log: EpisodeLog | tuple[()],
    key: Array,
    iterations: int,
    outside: Outside = NOTHING,
) -> tuple[TrainState, list[str]]:
    """Start the environments of a run after a number of iterations.

    Where the environment has a replayer, the episodes in `log` are played again. An episode that
    cannot be played again is truncated where it was, and a new one begins.

    Returns:
        The training state, and for each copy why its episode has begun anew, "" where it goes on.
    """
    key_restart = jax.random.fold_in(split_run_key(key).restarts, iterations)
    state = train_state.algorithm_state
    if environment.replayer is None or not isinstance(log, EpisodeLog):
        start = jax.jit(partial(init_rollout, algorithm, environment))
        rollout_state = run_compiled(start, state, key_restart, outside)
        reasons = ["its simulator cannot be brought back"] * environment.spec.num_envs
    else:
        rollout_state, reasons = replay_rollout(
            algorithm, environment, environment.replayer, train_state, log, key_restart, outside
        )
    is_cut = np.array([bool(reason) for reason in reasons])
    if is_cut.any():
        state = jax.jit(algorithm.truncate_episodes)(state, is_cut)
    return replace(train_state, algorithm_state=state, rollout_state=rollout_state), reasons


def replay_rollout(
    algorithm: Algorithm,
    environment: Environment,
    replayer: Replayer,
    train_state: TrainState,
    log: EpisodeLog,
    key: Array,
    outside: Outside = NOTHING,
) -> tuple[RolloutState, list[str]]:
    """The rollout state after a replay of the episodes in `log`, and why some have begun anew."""
    saved = train_state.rollout_state
    environment_state, observation, reasons = replayer.replay(saved.environment_state, log)
    policy = bind_policy(
        algorithm, train_state.algorithm_state, environment, explore=True, outside=outside
    )
    is_new = jnp.array([bool(reason) for reason in reasons])
    initial_values = (
        policy.initial_memory(key),
        jnp.zeros_like(saved.episode_return),
        jnp.zeros_like(saved.episode_length),
    )
    current = (saved.memory, saved.episode_return, saved.episode_length)
    rest = jax.tree.map(partial(where_done, is_new), initial_values, current)
    return RolloutState(environment_state, observation, *rest), reasons


def replay_note(log: EpisodeLog) -> str:
    """What a replay of the episodes in `log` costs, in words."""
    size = sum(np.asarray(array).nbytes for array in log)
    return (
        f"playing the running episodes again: {int(np.sum(log.logged)):,} steps of "
        f"{len(log.logged)} copies, from a log of {size:,} bytes"
    )


def restart_notes(log: EpisodeLog | tuple[()], reasons: list[str]) -> list[str]:
    """What is said of the episodes that have begun anew: for each reason one sentence."""
    copies: dict[str, list[str]] = {}
    for i, reason in enumerate(reasons):
        if reason:
            episode = f", episode {int(log.episode[i])}" if isinstance(log, EpisodeLog) else ""
            copies.setdefault(reason, []).append(f"{i}{episode}")
    return [
        f"copy {'; '.join(where[:4])}{f' and {len(where) - 4} more' if len(where) > 4 else ''}: "
        f"{reason}. The episode is truncated there and a new one begins, so the run goes on, but "
        "not bit for bit"
        for reason, where in copies.items()
    ]
