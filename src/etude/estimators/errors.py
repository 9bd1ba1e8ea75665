"""Targets and losses of value functions. A variant of Q-learning is another target handed to an unchanged rest."""
import jax
import jax.numpy as jnp

from etude.distributions import pick

Array = jax.Array


def one_step_target(reward: Array, next_value: Array, terminated: Array, discount: float | Array) -> Array:
    """r + γ (1 - terminated) V(s'): what a step says its state and action are worth."""
    return reward + discount * ~terminated * next_value


def greedy_value(q: Array) -> Array:
    """maxₐ Q(s, a), from q [..., action] (Watkins, 1989)."""
    return q.max(-1)


def double_value(q_target: Array, q_online: Array) -> Array:
    """Q_target(s, argmaxₐ Q_online(s, a)): one network chooses, the other judges (van Hasselt et al., 2016, eq. 4)."""
    return pick(q_target, q_online.argmax(-1))


def squared(error: Array) -> Array:
    """½ error²"""
    return error**2 / 2


def huber(error: Array, delta: float | Array = 1.0) -> Array:
    """½ error² within `delta`, linear beyond, with the slopes meeting (Huber, 1964): the gradient is clipped to `delta`."""
    inside = jnp.minimum(jnp.abs(error), delta)
    return inside**2 / 2 + delta * (jnp.abs(error) - inside)
