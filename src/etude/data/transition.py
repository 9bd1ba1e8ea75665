"""The transition record, and random minibatches of it."""

from typing import Any

import jax
import jax.numpy as jnp

from etude.spaces import Box, EnvironmentSpec
from etude.struct import struct
from etude.types import Array


@struct
class Transition:
    """One environment step; a rollout has leading axes [time, env].

    Observations and actions are trees of arrays with the structure of their spaces.
    """

    observation: Any
    action: Any  # of the policy: in [-1, 1] for bounded Box actions
    reward: Array
    next_observation: Any  # the true successor, never the next episode's first observation
    terminated: Array  # the value of next_observation is zero
    truncated: Array  # a limit ended the episode: bootstrap from next_observation
    memory: Any = ()  # of the policy: recurrent carry, warm-started plan, search weights

    @property
    def done(self) -> Array:
        """terminated | truncated: the episode ended here, so sums stop; not for bootstrapping."""
        return self.terminated | self.truncated


@struct
class ReplayBatch:
    """The batch of one gradient step: rows [batch], or [time, batch] of recurrent networks."""

    transition: Transition  # n steps folded into one: n-step reward, and the state n steps later
    discount: Array  # of the bootstrap value; 0 where the episode terminated
    weight: Array  # of a row in the loss; a number where it is that of all


def zeros_like_spec(spec: EnvironmentSpec, memory: Any = ()) -> Transition:
    """A transition of zeros without leading axes; actions of a Box are real, whatever its dtype.

    `memory` is that of one environment.
    """
    observation = spec.observation.zeros()
    flag = jnp.zeros((), bool)
    action = jnp.zeros(spec.action.shape) if isinstance(spec.action, Box) else spec.action.zeros()
    return Transition(observation, action, jnp.zeros(()), observation, flag, flag, memory)


def flatten_time(tree: Any) -> Any:
    """Leaves [time, env, ...] as [time * env, ...]."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def minibatches(key: Array, samples: Any, batch_size: int) -> Any:
    """Samples [sample, ...] in random order as [batch, batch_size, ...].

    Samples beyond a whole number of batches are dropped.
    """
    order = random_permutation(key, jax.tree.leaves(samples)[0].shape[0])
    order = order[: order.size // batch_size * batch_size].reshape(-1, batch_size)
    return jax.tree.map(lambda x: x[order], samples)


def random_permutation(key: Array, n: int) -> Array:
    """A random permutation of 0, ..., n - 1, [n].

    It sorts words with random high bits and the number itself in the low bits. This is six times
    faster on a CPU than `jax.random.permutation`. Two numbers with equal random bits keep their
    order (for n = 2^16 one pair in 2^16).
    """
    bits = (n - 1).bit_length()
    if bits > 16:
        return jax.random.permutation(key, n)
    low = jnp.uint32(2**bits - 1)
    return (
        jnp.sort(jax.random.bits(key, (n,)) & ~low | jnp.arange(n, dtype=jnp.uint32)) & low
    ).astype(jnp.int32)
