"""Rollouts: transitions collected by a policy, and evaluation over whole episodes."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from etude.algorithms.protocol import Outside, Policy, acts, outside_arguments
from etude.counters import MAX_COUNT
from etude.data.transition import Transition
from etude.environments.protocol import Environment
from etude.errors import InvalidInput
from etude.keys import INITIAL_MEMORY
from etude.struct import struct
from etude.trees import where_done
from etude.types import Array


class BoundPolicy(NamedTuple):
    """A policy together with its state, for a batch of environments."""

    act: Callable[[Any, Any, Array], tuple[Any, Any]]  # observation, memory, key -> action, memory
    initial_memory: Callable[[Array], Any] = lambda key: ()  # key -> memory at an episode's start


def bind_policy(
    policy: Policy,
    state: Any,
    environment: Environment,
    explore: bool = False,
    outside: Outside | None = None,
) -> BoundPolicy:
    """The policy of an algorithm in `state`; with `explore` the behavior policy.

    Training alone gives it `outside`, which a policy that needs it may read where it explores.
    Raises InvalidInput for an algorithm that has nothing to act with.
    """
    if not acts(policy):
        raise InvalidInput(
            f"{type(policy).__name__} has nothing to act with: it is judged on a dataset, with "
            "`etude evaluate`"
        )
    needed = () if outside is None else outside_arguments(policy, outside)
    return BoundPolicy(
        lambda observation, memory, key: policy.act(
            state, observation, memory, key, explore, *needed
        ),
        lambda key: policy.initial_memory(state, environment.spec, key, *needed),
    )


@struct
class RolloutState:
    """The state between two steps of a rollout; leaves are [env, ...] but for environment_state."""

    environment_state: Any
    observation: Any  # to act on next
    memory: Any  # of the policy
    episode_return: Array  # float32: undiscounted sum of the rewards of the running episode
    episode_length: Array  # int32: steps of the running episode


@struct
class EpisodeSums:
    """Sums over the episodes that ended."""

    count: Array
    total_return: Array
    total_length: Array


def init_rollout_state(environment: Environment, policy: BoundPolicy, key: Array) -> RolloutState:
    """The state after a reset of every environment."""
    environment_state, observation = environment.reset(key)
    memory = policy.initial_memory(jax.random.fold_in(key, INITIAL_MEMORY))
    n = environment.spec.num_envs
    return RolloutState(
        environment_state, observation, memory, jnp.zeros(n), jnp.zeros(n, jnp.int32)
    )


def rollout(
    environment: Environment,
    policy: BoundPolicy,
    rollout_state: RolloutState,
    key: Array,
    length: int,
) -> tuple[RolloutState, Transition, EpisodeSums]:
    """Follow `policy` for `length` steps in every environment; transitions are [time, env, ...]."""

    def step(rollout_state, key):
        key_act, key_step = jax.random.split(key)
        action, next_memory = policy.act(rollout_state.observation, rollout_state.memory, key_act)
        environment_state, observation, step_result = environment.step(
            rollout_state.environment_state, action, key_step
        )
        transition = Transition(
            rollout_state.observation,
            action,
            step_result.reward,
            step_result.next_observation,
            step_result.terminated,
            step_result.truncated,
            next_memory,
        )
        episode_return, episode_length = (
            rollout_state.episode_return + step_result.reward,
            rollout_state.episode_length + 1,
        )
        done = transition.done
        episode_sums = EpisodeSums(
            done.sum(),
            jnp.where(done, episode_return, 0).sum(),
            jnp.where(done, episode_length, 0).sum(),
        )
        initial_values = (
            policy.initial_memory(jax.random.fold_in(key, INITIAL_MEMORY)),
            jnp.zeros_like(episode_return),
            jnp.zeros_like(episode_length),
        )
        next_state = RolloutState(
            environment_state,
            observation,
            *jax.tree.map(
                partial(where_done, done),
                initial_values,
                (next_memory, episode_return, jnp.minimum(episode_length, MAX_COUNT - 1)),
            ),
        )
        return next_state, (transition, episode_sums)

    rollout_state, (experience, episode_sums) = jax.lax.scan(
        step, rollout_state, jax.random.split(key, length), unroll=length == 1
    )
    return rollout_state, experience, jax.tree.map(partial(jnp.sum, axis=0), episode_sums)


def copies_for(episodes: int) -> int:
    """The most copies, up to ten, that can play `episodes` with as many episodes each."""
    return max(n for n in range(1, 11) if episodes % n == 0)


def evaluate(
    environment: Environment, policy: BoundPolicy, key: Array, episodes: int
) -> tuple[Array, Array]:
    """Undiscounted returns and lengths of whole episodes under `policy`, [episodes] each.

    They are those of `play_episodes`.
    """
    return play_episodes(environment, policy, key, episodes)[:2]


def play_episodes(
    environment: Environment,
    policy: BoundPolicy,
    key: Array,
    episodes: int,
    final_measures: Callable[[Any, Any], dict[str, Array]] = lambda memory, observation: {},
) -> tuple[Array, Array, dict[str, Array]]:
    """Undiscounted returns, lengths and measures by name of whole episodes, [episodes] each.

    Every environment contributes the same number of episodes, for otherwise short episodes would
    count more often than long ones; `episodes` is a multiple of the number of environments.
    `final_measures` tells of the end of an episode: (memory after the last action, true last
    observation) -> numbers [env] by their names.
    """
    n = environment.spec.num_envs
    episodes_per_env = episodes // n
    key_reset, key_steps = jax.random.split(key)

    def step(carry):
        previous, num_episodes, tables, time = carry
        rollout_state, transition, _ = rollout(
            environment, policy, previous, jax.random.fold_in(key_steps, time), 1
        )
        # episodes beyond `episodes_per_env` are dropped
        index = (
            jnp.arange(n),
            jnp.where(
                transition.done[0] & (num_episodes < episodes_per_env),
                num_episodes,
                episodes_per_env,
            ),
        )
        values = (
            previous.episode_return + transition.reward[0],
            previous.episode_length + 1,
            final_measures(
                *jax.tree.map(lambda x: x[0], (transition.memory, transition.next_observation))
            ),
        )
        tables = jax.tree.map(lambda x, new: x.at[index].set(new, mode="drop"), tables, values)
        return rollout_state, num_episodes + transition.done[0], tables, time + 1

    start = init_rollout_state(environment, policy, key_reset)
    tables = jax.tree.map(
        lambda x: jnp.zeros((n, episodes_per_env), x.dtype),
        (
            start.episode_return,
            start.episode_length,
            jax.eval_shape(final_measures, start.memory, start.observation),
        ),
    )
    _, _, tables, _ = jax.lax.while_loop(
        lambda carry: (carry[1] < episodes_per_env).any(),
        step,
        (start, jnp.zeros(n, jnp.int32), tables, jnp.int32(0)),
    )
    return jax.tree.map(jnp.ravel, tables)
