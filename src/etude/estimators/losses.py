"""Targets and losses: TD, Huber, categorical projection (C51), quantile Huber, weighted NLL."""

import jax
import jax.numpy as jnp

from etude.errors import InvalidInput
from etude.types import Array


def check_target(method: str, target: Array, output: Array) -> None:
    """Check that what a `method` makes as targets has the shape of the outputs they are for.

    Shapes that differ would be broadcast, and a loss that looks sane be taken of wrong pairs.
    Raises InvalidInput, naming the method and both shapes.
    """
    if jnp.shape(target) != jnp.shape(output):
        raise InvalidInput(
            f"{method} gives targets of shape {jnp.shape(target)} for outputs of shape "
            f"{jnp.shape(output)}; make the shapes equal"
        )


def td_target(
    reward: Array, next_value: Array, terminated: Array, discount: float | Array
) -> Array:
    """The one-step TD target r + γ (1 - terminated) V(s')."""
    return reward + discount * ~terminated * next_value


def max_q(q: Array) -> Array:
    """maxₐ Q(s, a), from q [..., action] (Watkins, 1989)."""
    return q.max(-1)


def weighted_nll(log_prob: Array, weight: Array | float = 1.0) -> Array:
    """The weighted negative log-likelihood - E[w log π(a|s)], with constant weights.

    With weight 1 it is the loss of behavior cloning: cross-entropy for discrete actions, and for a
    normal of fixed variance the squared error up to scale and a constant. With returns as weights
    its gradient is that of REINFORCE.
    """
    return -(jax.lax.stop_gradient(weight) * log_prob).mean()


def l2_loss(error: Array) -> Array:
    """½ error²."""
    return error**2 / 2


def normalize_advantage(advantage: Array) -> Array:
    """Advantages with mean 0 and standard deviation 1 over all of them.

    One alone stays as it is, for it would become 0.
    """
    if advantage.size == 1:
        return advantage
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8)


def huber_loss(error: Array, delta: float | Array = 1.0) -> Array:
    """½ error² up to |error| = `delta` and linear beyond, so |gradient| ≤ `delta` (Huber, 1964)."""
    quadratic = jnp.minimum(jnp.abs(error), delta)
    return quadratic**2 / 2 + delta * (jnp.abs(error) - quadratic)


def categorical_projection(atoms: Array, probabilities: Array, support: Array) -> Array:
    """Project a distribution on `atoms` [..., atom] onto the even grid `support` [n], to [..., n].

    Each atom is clipped to the support, and its probability is split between the two neighboring
    points in proportion to their nearness (Bellemare et al., 2017, eq. 7). This keeps the mean of
    atoms inside the support.
    """
    spacing = support[1] - support[0]
    # in units of the spacing
    position = (jnp.clip(atoms, support[0], support[-1]) - support[0]) / spacing
    # [..., atom, n]
    weight = jnp.maximum(1 - jnp.abs(position[..., None] - jnp.arange(support.size)), 0)
    return jnp.einsum("...an,...a->...n", weight, probabilities)  # faster than a sum of products


def quantile_huber_loss(quantiles: Array, targets: Array, delta: float | Array = 1.0) -> Array:
    """The quantile regression loss, [...], of `quantiles` [..., n] for samples `targets` [..., m].

        Σᵢ meanⱼ |τᵢ - 1(uᵢⱼ < 0)| huber(uᵢⱼ) / δ,   uᵢⱼ = targetⱼ - quantileᵢ,   τᵢ = (2i + 1) / 2n

    For |u| > δ its derivative by u is τᵢ where the target is above the quantile and τᵢ - 1 where it
    is below (Dabney et al., 2018, eq. 10).
    """
    n = quantiles.shape[-1]
    tau = (jnp.arange(n) + 0.5) / n
    error = targets[..., None, :] - quantiles[..., None]  # [..., n, m]
    weight = jnp.abs(tau[:, None] - (jax.lax.stop_gradient(error) < 0))
    return (weight * huber_loss(error, delta) / delta).mean(-1).sum(-1)
