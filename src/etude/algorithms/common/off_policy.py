"""What algorithms that learn from replay have in common: they wait until there is enough to draw
from, then learn."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from etude.data.replay import uniform
from etude.data.transition import Transition
from etude.errors import InvalidInput
from etude.optim.schedules import assume_unbatched
from etude.struct import replace
from etude.types import Array, Metrics

GradientStep = Callable[[Any, Array], tuple[Any, Metrics]]  # state, key -> state, metrics


def update_from_replay(
    algorithm: Any, state: Any, experience: Transition, key: Array
) -> tuple[Any, Metrics]:
    """Insert what was lived into `state.replay`, then take gradient steps,
    `algorithm.gradient_step(state, batch, key)`."""
    ring = uniform.insert(state.replay, experience)
    state = replace(state, replay=(), steps=state.steps + experience.reward.size)

    def step(state, key):
        key_batch, key_step = jax.random.split(key)
        return algorithm.gradient_step(
            state, uniform.sample(ring, key_batch, algorithm.batch_size), key_step
        )

    state, metrics = update_if_ready(
        state.steps >= algorithm.warmup_steps, step, state, key, algorithm.gradient_steps
    )
    return replace(state, replay=ring), metrics


def update_if_ready(
    warm: Array, step: GradientStep, state: Any, key: Array, gradient_steps: int
) -> tuple[Any, Metrics]:
    """The state after so many steps, and the means of their metrics and "updates", how many there
    were: none until `warm`.

    `warm` is the same in all seeds of a program. What a step does not change, as the replay buffer,
    is better left out of `state`: the branches copy what they return.
    """

    def fit(state):
        return scan_gradient_steps(step, state, key, gradient_steps)

    def wait(state):
        return state, jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(fit, state)[1]
        )

    state, metrics = jax.lax.cond(assume_unbatched(warm), fit, wait, state)
    return state, {**jax.tree.map(jnp.mean, metrics), "updates": warm * gradient_steps}


def scan_gradient_steps(
    step: GradientStep, state: Any, key: Array, times: int
) -> tuple[Any, Metrics]:
    """The state after so many steps, each with a key of its own, and their metrics, [step]."""
    return jax.lax.scan(step, state, jax.random.split(key, times), unroll=times == 1)


def check_batch_size(algorithm: Any) -> None:
    """Raises InvalidInput when a batch is larger than the replay buffer."""
    if algorithm.batch_size > algorithm.capacity:
        raise InvalidInput(
            f"batch_size {algorithm.batch_size} is larger than capacity {algorithm.capacity}; "
            "give a smaller batch or a larger buffer"
        )
