"""What an agent has lived through."""

from typing import Any

import jax
import jax.numpy as jnp

from etude.spaces import Box, EnvironmentSpec
from etude.struct import struct
from etude.types import Array


@struct
class Transition:
    """A step of experience; a rollout has leading axes [time, env].

    Observation and action are trees of arrays in the shape of their spaces.
    """

    observation: Any
    action: Any  # as the policy chose it, in [-1, 1] for bounded Box actions
    reward: Array
    next_observation: Any  # the true successor, never the next episode's first observation
    terminated: Array  # the future is worth zero
    truncated: Array  # the future was cut off: bootstrap from next_observation
    memory: Any = ()  # the policy's own: recurrent state, warm-started plan, search weights

    @property
    def done(self) -> Array:
        """The episode ended here, one way or the other: stops sums, never a bootstrap."""
        return self.terminated | self.truncated


def zeros_like_spec(spec: EnvironmentSpec) -> Transition:
    """One transition of zeros, without leading axes; what a policy chooses in a Box is real,
    whatever the Box's dtype."""
    observation = spec.observation.zeros()
    flag = jnp.zeros((), bool)
    action = jnp.zeros(spec.action.shape) if isinstance(spec.action, Box) else spec.action.zeros()
    return Transition(observation, action, jnp.zeros(()), observation, flag, flag)


def flatten_time(tree: Any) -> Any:
    """[time, env, ...] to [time * env, ...]."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def minibatches(key: Array, samples: Any, batch_size: int) -> Any:
    """Samples [sample, ...] in random order as [batch, batch_size, ...]; what is over a whole
    number of batches is left out."""
    order = random_permutation(key, jax.tree.leaves(samples)[0].shape[0])
    order = order[: order.size // batch_size * batch_size].reshape(-1, batch_size)
    return jax.tree.map(lambda x: x[order], samples)


def random_permutation(key: Array, n: int) -> Array:
    """The numbers below n in random order, [n].

    Random bits above, the number itself below, sorted as one word: six times faster on a CPU than
    `jax.random.permutation`. Two numbers whose random bits agree (at 2^16 of them, one pair in
    2^16) keep their order.
    """
    bits = (n - 1).bit_length()
    if bits > 16:
        return jax.random.permutation(key, n)
    low = jnp.uint32(2**bits - 1)
    return (
        jnp.sort(jax.random.bits(key, (n,)) & ~low | jnp.arange(n, dtype=jnp.uint32)) & low
    ).astype(jnp.int32)
