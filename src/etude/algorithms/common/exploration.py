"""Trying what is not known to be best."""

import jax
import jax.numpy as jnp

from etude.types import Array


def epsilon_greedy(key: Array, values: Array, epsilon: float | Array) -> Array:
    """argmaxₐ of `values` [..., action], the first of equals, or with probability ε an action at
    random, [...]."""
    key_coin, key_action = jax.random.split(key)
    greedy = values.argmax(-1)
    return mix_actions(
        key_coin, jax.random.randint(key_action, greedy.shape, 0, values.shape[-1]), greedy, epsilon
    )


def mix_actions(key: Array, other: Array, action: Array, epsilon: float | Array) -> Array:
    """`other` instead of `action`, both [n, ...], in each of the n rows with probability ε."""
    coins = jax.random.uniform(key, action.shape[:1]) < epsilon
    return jnp.where(coins.reshape(-1, *(1,) * (action.ndim - 1)), other, action)


def add_gaussian_noise(action: Array, std: float | Array, uniform_mask: Array, key: Array) -> Array:
    """The action with normal noise of this standard deviation, held within [-1, 1]; uniform there
    instead where `uniform_mask`."""
    key_noise, key_uniform = jax.random.split(key)
    noisy = jnp.clip(action + std * jax.random.normal(key_noise, action.shape), -1, 1)
    return jnp.where(
        uniform_mask, jax.random.uniform(key_uniform, action.shape, minval=-1, maxval=1), noisy
    )
