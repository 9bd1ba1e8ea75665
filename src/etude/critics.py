"""Action values Q(s, a) of continuous actions: networks that take the action beside the observation."""
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from etude.networks import Activation, Network, network
from etude.spaces import Spec, Tree

Array = jax.Array
Critics = tuple[Network, ...]          # each ((observation, action)) -> [..., 1]


def critics(key: Array, spec: Spec, hidden: Sequence[int], activation: Activation = "relu", count: int = 2) -> Critics:
    """`count` networks of the same shape and different weights; two are twins (Fujimoto et al., 2018).

    They are a tuple and not one network with a leading axis, whose batched products are slower on a CPU than those of each.
    """
    space = Tree((spec.observation, spec.action))
    return tuple(network(key, space, hidden, 1, activation) for key in jax.random.split(key, count))


def action_values(critics: Critics, observation, action: Array) -> Array:
    """Q(s, a) by each, [critic, ...]; actions are as the policy chooses them, in [-1, 1] where the Box is bounded."""
    return jnp.stack([critic((observation, action))[..., 0] for critic in critics])
