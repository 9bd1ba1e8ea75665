"""Generating samples: following a policy, and judging it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from etude.data.transition import Transition
from etude.environments.protocol import Environment
from etude.struct import replace, struct
from etude.trees import where_done
from etude.types import Array

# observation, memory, key -> action, memory
PolicyFn = Callable[[Any, Any, Array], tuple[Any, Any]]


@struct
class RolloutState:
    """Where play stands; leaves are [env, ...] but for the environment's own state."""

    environment: Any
    observation: Any  # to act on next
    memory: Any  # the policy's own, zeros at the start of an episode
    episode_return: Array  # float32: rewards so far, undiscounted
    episode_length: Array  # int32: steps so far


@struct
class EpisodeSums:
    """Sums over the episodes that ended."""

    count: Array
    total_return: Array
    total_length: Array


def init_rollout_state(environment: Environment, key: Array, memory: Any = ()) -> RolloutState:
    """The start of play in every copy."""
    state, observation = environment.reset(key)
    n = environment.spec.num_envs
    return RolloutState(state, observation, memory, jnp.zeros(n), jnp.zeros(n, jnp.int32))


def initial_memory(environment: Environment, policy: PolicyFn) -> Any:
    """A policy's memory at the start of an episode: zeros in the shape of what it notes when it is
    given none, ()."""

    def noted(key):
        return policy(environment.reset(key)[1], (), key)[1]

    return jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(noted, jax.random.key(0))
    )


def rollout(
    environment: Environment, policy: PolicyFn, stage: RolloutState, key: Array, length: int
) -> tuple[RolloutState, Transition, EpisodeSums]:
    """Follow `policy` for `length` steps in every copy; the transitions are [time, env, ...]."""

    def step(stage, key):
        key_act, key_step = jax.random.split(key)
        action, noted = policy(stage.observation, stage.memory, key_act)
        state, observation, outcome = environment.step(stage.environment, action, key_step)
        transition = Transition(
            stage.observation,
            action,
            outcome.reward,
            outcome.next_observation,
            outcome.terminated,
            outcome.truncated,
            noted,
        )
        episode_return, episode_length = (
            stage.episode_return + outcome.reward,
            stage.episode_length + 1,
        )
        done = transition.done
        ended = EpisodeSums(
            done.sum(),
            jnp.where(done, episode_return, 0).sum(),
            jnp.where(done, episode_length, 0).sum(),
        )
        after = RolloutState(state, observation, noted, episode_return, episode_length)
        forget = jax.tree.map(
            lambda x: where_done(done, jnp.zeros_like(x), x),
            (noted, episode_return, episode_length),
        )
        memory, episode_return, episode_length = forget
        after = replace(
            after, memory=memory, episode_return=episode_return, episode_length=episode_length
        )
        return after, (transition, ended)

    stage, (experience, ended) = jax.lax.scan(
        step, stage, jax.random.split(key, length), unroll=length == 1
    )
    return stage, experience, jax.tree.map(partial(jnp.sum, axis=0), ended)


def evaluate(
    environment: Environment, policy: PolicyFn, key: Array, episodes: int, memory: Any = ()
) -> tuple[Array, Array]:
    """The returns and lengths, [episodes], of whole episodes played by `policy`.

    Every copy plays the same number of episodes, so that short ones are not counted more often than
    long ones; `episodes` must be a multiple of the number of copies.
    """
    n = environment.spec.num_envs
    quota = episodes // n
    key_reset, key_play = jax.random.split(key)

    def play(carry):
        stage, played, returns, lengths, time = carry
        before = stage
        stage, transition, _ = rollout(
            environment, policy, stage, jax.random.fold_in(key_play, time), 1
        )
        # past the quota: dropped
        slot = (jnp.arange(n), jnp.where(transition.done[0] & (played < quota), played, quota))
        returns = returns.at[slot].set(before.episode_return + transition.reward[0], mode="drop")
        lengths = lengths.at[slot].set(before.episode_length + 1, mode="drop")
        return stage, played + transition.done[0], returns, lengths, time + 1

    start = (
        init_rollout_state(environment, key_reset, memory),
        jnp.zeros(n, jnp.int32),
        jnp.zeros((n, quota)),
        jnp.zeros((n, quota), jnp.int32),
        jnp.int32(0),
    )
    _, _, returns, lengths, _ = jax.lax.while_loop(
        lambda carry: (carry[1] < quota).any(), play, start
    )
    return returns.ravel(), lengths.ravel()
