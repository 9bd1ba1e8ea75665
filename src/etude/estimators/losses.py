"""Targets and losses of value functions. A variant of Q-learning is another target handed to an
unchanged rest."""

import jax
import jax.numpy as jnp

from etude.types import Array


def td_target(
    reward: Array, next_value: Array, terminated: Array, discount: float | Array
) -> Array:
    """r + γ (1 - terminated) V(s'): what a step says its state and action are worth."""
    return reward + discount * ~terminated * next_value


def max_q(q: Array) -> Array:
    """maxₐ Q(s, a), from q [..., action] (Watkins, 1989)."""
    return q.max(-1)


def weighted_nll(log_prob: Array, weight: Array | float = 1.0) -> Array:
    """- E[w log π(a|s)], weights being constants: maximum likelihood, of which each sample counts
    as much as it is worth.

    With weight 1 it is the loss of behavior cloning, cross entropy for choices and the squared
    error, up to the spread, for a normal; with the return for a weight its gradient is REINFORCE's.
    """
    return -(jax.lax.stop_gradient(weight) * log_prob).mean()


def l2_loss(error: Array) -> Array:
    """½ error²"""
    return error**2 / 2


def huber_loss(error: Array, delta: float | Array = 1.0) -> Array:
    """½ error² within `delta`, linear beyond, with the slopes meeting (Huber, 1964): the gradient
    is clipped to `delta`."""
    inside = jnp.minimum(jnp.abs(error), delta)
    return inside**2 / 2 + delta * (jnp.abs(error) - inside)


def categorical_projection(atoms: Array, probabilities: Array, support: Array) -> Array:
    """A distribution on `atoms` [..., atom] as one on the evenly spaced `support` [n], [..., n], of
    the same mean inside it.

    Each atom, held within the support, shares its probability out to its two neighbors, the nearer
    one getting more (Bellemare et al., 2017, eq. 7).
    """
    spacing = support[1] - support[0]
    # counted in atoms of the support
    place = (jnp.clip(atoms, support[0], support[-1]) - support[0]) / spacing
    # [..., atom, n]
    share = jnp.maximum(1 - jnp.abs(place[..., None] - jnp.arange(support.size)), 0)
    return jnp.einsum("...an,...a->...n", share, probabilities)  # quicker than a sum of products


def quantile_huber_loss(quantiles: Array, targets: Array, delta: float | Array = 1.0) -> Array:
    """How far `quantiles` [..., n] are from those of the samples `targets` [..., m], [...] (Dabney
    et al., 2018, eq. 10).

        Σᵢ meanⱼ |τᵢ - 1(uᵢⱼ < 0)| huber(uᵢⱼ) / δ,   uᵢⱼ = targetⱼ - quantileᵢ,   τᵢ = (2i + 1) / 2n

    The slope is τᵢ where the target lies above and τᵢ - 1 where it lies below.
    """
    n = quantiles.shape[-1]
    level = (jnp.arange(n) + 0.5) / n
    error = targets[..., None, :] - quantiles[..., None]  # [..., n, m]
    weight = jnp.abs(level[:, None] - (jax.lax.stop_gradient(error) < 0))
    return (weight * huber_loss(error, delta) / delta).mean(-1).sum(-1)
