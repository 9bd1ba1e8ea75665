"""Trying what is not known to be best."""
import jax
import jax.numpy as jnp

Array = jax.Array


def epsilon_greedy(key: Array, values: Array, epsilon: float | Array) -> Array:
    """argmaxₐ of `values` [..., action], the first of equals, or with probability ε an action at random, [...]."""
    key_coin, key_action = jax.random.split(key)
    greedy = values.argmax(-1)
    return wander(key_coin, jax.random.randint(key_action, greedy.shape, 0, values.shape[-1]), greedy, epsilon)


def wander(key: Array, other: Array, action: Array, epsilon: float | Array) -> Array:
    """`other` instead of `action`, both [n, ...], in each of the n rows with probability ε."""
    coins = jax.random.uniform(key, action.shape[:1]) < epsilon
    return jnp.where(coins.reshape(-1, *(1,) * (action.ndim - 1)), other, action)


def with_noise(action: Array, std: float | Array, anywhere: Array, key: Array) -> Array:
    """The action with normal noise of this standard deviation, held within [-1, 1]; uniform there instead where `anywhere`."""
    key_noise, key_uniform = jax.random.split(key)
    noisy = jnp.clip(action + std * jax.random.normal(key_noise, action.shape), -1, 1)
    return jnp.where(anywhere, jax.random.uniform(key_uniform, action.shape, minval=-1, maxval=1), noisy)
