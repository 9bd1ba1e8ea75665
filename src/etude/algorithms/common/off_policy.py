"""The update shared by off-policy algorithms: insert into replay, then take gradient steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from etude.algorithms.common.replay_agents import make_batch, num_indices
from etude.algorithms.protocol import Relabel
from etude.counters import count_up
from etude.data.replay import ring_buffer, uniform
from etude.data.transition import Transition
from etude.optim.schedules import assume_unbatched
from etude.struct import replace
from etude.types import Array, Metrics

GradientStep = Callable[[Any, Array], tuple[Any, Metrics]]  # state, key -> state, metrics


def update_from_replay(
    algorithm: Any, state: Any, experience: Transition, key: Array, relabel: Relabel | None = None
) -> tuple[Any, Metrics]:
    """Insert `experience` into `state.replay`, then take gradient steps on batches drawn from it.

    Each step is `algorithm.gradient_step(state, batch, key)`, on a ReplayBatch that hindsight and
    `relabel` have changed. There is none before `algorithm.warmup_steps` environment steps.
    """
    replay_buffer = ring_buffer.insert(state.replay, experience)
    state = replace(state, replay=(), steps=count_up(state.steps, experience.reward.size))

    def gradient_step(state, key):
        key_batch, key_step = jax.random.split(key)
        indices = uniform.sample_indices(replay_buffer, key_batch, num_indices(algorithm))
        batch = make_batch(algorithm, state, replay_buffer, indices, jnp.float32(1), key, relabel)
        return algorithm.gradient_step(state, batch, key_step)

    is_ready = state.steps >= algorithm.warmup_steps
    state, metrics = update_if_ready(is_ready, gradient_step, state, key, algorithm.gradient_steps)
    return replace(state, replay=replay_buffer), metrics


def update_if_ready(
    is_ready: Array, gradient_step: GradientStep, state: Any, key: Array, num_steps: int
) -> tuple[Any, Metrics]:
    """The state after `num_steps` gradient steps, or unchanged while `is_ready` is false.

    The metrics are means over the steps, and "updates" is the number of steps taken; all are zero
    when there was none.

    `is_ready` must be the same for all seeds of a `vmap`. Leave out of `state` what the steps do
    not change, such as the replay buffer: the branches of the condition copy what they return.
    """

    def train(state):
        return scan_gradient_steps(gradient_step, state, key, num_steps)

    def skip(state):
        return state, jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(train, state)[1]
        )

    state, metrics = jax.lax.cond(assume_unbatched(is_ready), train, skip, state)
    return state, {**jax.tree.map(jnp.mean, metrics), "updates": is_ready * num_steps}


def scan_gradient_steps(
    gradient_step: GradientStep, state: Any, key: Array, num_steps: int
) -> tuple[Any, Metrics]:
    """The state after `num_steps` gradient steps, each with its own key, and their metrics [step].

    A single step is unrolled.
    """
    keys = jax.random.split(key, num_steps)
    return jax.lax.scan(gradient_step, state, keys, unroll=num_steps == 1)
