"""Action values Q(s, a) of continuous actions: networks that take the action beside the
observation."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from etude.nn.networks import Activation, Network, make_network
from etude.spaces import Composite, EnvironmentSpec
from etude.types import Array

Critics = tuple[Network, ...]  # each ((observation, action)) -> [..., 1]


def make_critics(
    key: Array,
    spec: EnvironmentSpec,
    hidden: Sequence[int],
    activation: Activation = "relu",
    count: int = 2,
) -> Critics:
    """`count` networks of the same shape and different weights; two are twins (Fujimoto et al.,
    2018).

    They are a tuple and not one network with a leading axis, whose batched products are slower on a
    CPU than those of each.
    """
    space = Composite((spec.observation, spec.action))
    return tuple(
        make_network(key, space, hidden, 1, activation) for key in jax.random.split(key, count)
    )


def critic_values(critics: Critics, observation, action: Array) -> Array:
    """Q(s, a) by each, [critic, ...]; actions are as the policy chooses them, in [-1, 1] where the
    Box is bounded."""
    return jnp.stack([critic((observation, action))[..., 0] for critic in critics])
