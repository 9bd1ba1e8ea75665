"""Exploration: ε-greedy actions for discrete spaces, Gaussian noise for continuous ones."""

import jax
import jax.numpy as jnp

from etude.nn.action_masks import masked
from etude.spaces import Box, Discrete
from etude.types import Array


def epsilon_greedy(
    key: Array, q: Array, epsilon: float | Array, legal: Array | None = None
) -> Array:
    """argmaxₐ of `q` [..., action], or with probability ε a uniformly random action, [...].

    Of several best actions the first is taken. With `legal`, bool [..., action], both are among
    the legal actions.
    """
    key_mix, key_random = jax.random.split(key)
    greedy_action = masked(q, legal).argmax(-1)
    random_action = random_choice(key_random, greedy_action.shape, q.shape[-1], legal)
    return mix_actions(key_mix, random_action, greedy_action, epsilon)


def random_choice(
    key: Array, shape: tuple[int, ...], num_choices: int, legal: Array | None = None
) -> Array:
    """Uniformly random choices, [*shape], or with `legal`, bool [*shape, choice], legal ones."""
    if legal is None:
        return jax.random.randint(key, shape, 0, num_choices)
    return jax.random.categorical(key, masked(jnp.zeros((*shape, num_choices)), legal))


def mix_actions(
    key: Array, random_action: Array, greedy_action: Array, epsilon: float | Array
) -> Array:
    """`random_action` with probability ε, else `greedy_action`, independently in each row [n, ...].

    Both are [n, ...].
    """
    explores = jax.random.uniform(key, greedy_action.shape[:1]) < epsilon
    trailing_axes = (1,) * (greedy_action.ndim - 1)
    return jnp.where(explores.reshape(-1, *trailing_axes), random_action, greedy_action)


def add_gaussian_noise(action: Array, std: float | Array, uniform_mask: Array, key: Array) -> Array:
    """`action` plus normal noise of standard deviation `std`, clipped to [-1, 1].

    Where `uniform_mask` is true, the result is a uniform action in [-1, 1] instead.
    """
    key_noise, key_uniform = jax.random.split(key)
    noisy_action = jnp.clip(action + std * jax.random.normal(key_noise, action.shape), -1, 1)
    uniform_action = jax.random.uniform(key_uniform, action.shape, minval=-1, maxval=1)
    return jnp.where(uniform_mask, uniform_action, noisy_action)


def random_actions(space: Box | Discrete, key: Array, num_envs: int) -> Array:
    """Uniformly random actions of a bounded Box or a Discrete space, [env, *action]."""
    if isinstance(space, Discrete):
        return random_choice(key, (num_envs,), space.n)
    return jax.random.uniform(key, (num_envs, *space.shape), minval=-1.0)
