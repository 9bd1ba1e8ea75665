"""What a policy's network puts over its actions.

Each is a pytree with `sample(key)`, `mode()`, `log_prob(action)` and `entropy()`; leading axes are any, and the axes of
one action are summed over, its parts being independent.
"""
import functools
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp

from etude import spaces
from etude.spaces import Space
from etude.struct import static, struct

Array = jax.Array


@struct
class Categorical:
    """One choice of n, in logits [..., n]."""
    logits: Array

    def sample(self, key: Array) -> Array:
        return jax.random.categorical(key, self.logits)

    def mode(self) -> Array:
        return self.logits.argmax(-1)

    def log_prob(self, action: Array) -> Array:
        return pick(jax.nn.log_softmax(self.logits), action)

    def entropy(self) -> Array:
        log_p = jax.nn.log_softmax(self.logits)
        return -(jnp.exp(log_p) * log_p).sum(-1)


@struct
class MultiCategorical:
    """Independent choices, action [..., *shape], in logits [..., sum of sizes]."""
    logits: Array
    sizes: tuple[int, ...] = static()
    shape: tuple[int, ...] = static()

    @property
    def parts(self) -> list[Categorical]:
        ends = [sum(self.sizes[: i + 1]) for i in range(len(self.sizes))]
        return [Categorical(self.logits[..., end - size : end]) for size, end in zip(self.sizes, ends, strict=True)]

    def sample(self, key: Array) -> Array:
        keys = jax.random.split(key, len(self.sizes))
        return self._shaped([part.sample(key) for part, key in zip(self.parts, keys, strict=True)])

    def mode(self) -> Array:
        return self._shaped([part.mode() for part in self.parts])

    def log_prob(self, action: Array) -> Array:
        choices = action.reshape(*self.logits.shape[:-1], len(self.sizes))
        return functools.reduce(operator.add, [part.log_prob(choices[..., i]) for i, part in enumerate(self.parts)])

    def entropy(self) -> Array:
        return functools.reduce(operator.add, [part.entropy() for part in self.parts])

    def _shaped(self, choices: list[Array]) -> Array:
        return jnp.stack(choices, -1).reshape(*self.logits.shape[:-1], *self.shape)


@struct
class Bernoulli:
    """Independent zeros and ones, action [..., *shape] of int8, in logits [..., n]."""
    logits: Array
    shape: tuple[int, ...] = static()

    def sample(self, key: Array) -> Array:
        return self._shaped(jax.random.bernoulli(key, jax.nn.sigmoid(self.logits)))

    def mode(self) -> Array:
        return self._shaped(self.logits > 0)

    def log_prob(self, action: Array) -> Array:
        sign = 2.0 * action.reshape(self.logits.shape) - 1
        return jax.nn.log_sigmoid(sign * self.logits).sum(-1)

    def entropy(self) -> Array:
        p = jax.nn.sigmoid(self.logits)
        return -(p * jax.nn.log_sigmoid(self.logits) + (1 - p) * jax.nn.log_sigmoid(-self.logits)).sum(-1)

    def _shaped(self, on: Array) -> Array:
        return on.astype(jnp.int8).reshape(*self.logits.shape[:-1], *self.shape)


@struct
class Normal:
    """Independent normals, action [..., *shape], with mean and log standard deviation [..., n]."""
    mean: Array
    log_std: Array
    shape: tuple[int, ...] = static()

    def sample(self, key: Array) -> Array:
        noise = jax.random.normal(key, self.mean.shape)
        return self._shaped(self.mean + jnp.exp(self.log_std) * noise)

    def mode(self) -> Array:
        return self._shaped(self.mean)

    def log_prob(self, action: Array) -> Array:
        deviation = (action.reshape(self.mean.shape) - self.mean) * jnp.exp(-self.log_std)
        return -(deviation**2 / 2 + self.log_std + math.log(2 * math.pi) / 2).sum(-1)

    def entropy(self) -> Array:
        return (jnp.broadcast_to(self.log_std, self.mean.shape) + math.log(2 * math.pi * math.e) / 2).sum(-1)

    def _shaped(self, action: Array) -> Array:
        return action.reshape(*self.mean.shape[:-1], *self.shape)


Distribution = Categorical | MultiCategorical | Bernoulli | Normal


def num_parameters(space: Space) -> int:
    """How many numbers a network must give to put a distribution over actions of `space`."""
    match space:
        case spaces.Discrete(n=n):
            return n
        case spaces.MultiDiscrete(sizes=sizes):
            return sum(sizes)
    return math.prod(space.shape)


def over(space: Space, parameters: Array, log_std: Any = ()) -> Distribution:
    """The distribution over actions of `space` with these parameters, [..., num_parameters(space)].

    A Box takes them as the mean, and `log_std` [num_parameters(space)] beside them.
    """
    match space:
        case spaces.Discrete():
            return Categorical(parameters)
        case spaces.MultiDiscrete(sizes=sizes, shape=shape):
            return MultiCategorical(parameters, sizes, shape)
        case spaces.MultiBinary(shape=shape):
            return Bernoulli(parameters, shape)
    return Normal(parameters, log_std, space.shape)


def pick(values: Array, action: Array) -> Array:
    """values[..., action]: [..., n] and [...] to [...]."""
    return jnp.take_along_axis(values, action[..., None], -1)[..., 0]
