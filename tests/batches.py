"""Batches of replay for tests: drawn uniformly, and with one-step targets."""

from functools import partial

import jax
import jax.numpy as jnp

from etude.data.replay import ring_buffer, uniform
from etude.data.transition import ReplayBatch


def one_step(agent, transition):
    """The batch of one-step targets of these transitions."""
    return ReplayBatch(
        transition, agent.discount * ~jnp.asarray(transition.terminated), jnp.float32(1)
    )


@partial(jax.jit, static_argnums=2)
def sample(ring, key, count):
    """Transitions [count], as uniform replay draws them with this key."""
    return ring_buffer.gather(ring, uniform.sample_indices(ring, key, count))
