"""Critics Q(s, a) for continuous actions: networks of the observation and the action."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from etude.nn.custom_torso import TorsoMaker
from etude.nn.networks import Activation, Network, make_network
from etude.spaces import Composite, EnvironmentSpec
from etude.types import Array

Critics = tuple[Network, ...]  # each maps (observation, action) to [..., 1]


def make_critics(
    key: Array,
    spec: EnvironmentSpec,
    hidden: Sequence[int],
    activation: Activation = "relu",
    num_critics: int = 2,
    torso: TorsoMaker | None = None,
) -> Critics:
    """`num_critics` networks that differ in their weights; two are twins (Fujimoto et al., 2018).

    They are a tuple and not one network with a leading axis, whose batched products are slower on a
    CPU than one product for each critic.
    """
    space = Composite((spec.observation, spec.action))
    return tuple(
        make_network(key, space, hidden, 1, activation, torso=torso)
        for key in jax.random.split(key, num_critics)
    )


def critic_values(critics: Critics, observation, action: Array) -> Array:
    """Q(s, a) of each critic, [critic, ...].

    Actions are the policy's, in [-1, 1] where the Box is bounded.
    """
    return jnp.stack([critic((observation, action))[..., 0] for critic in critics])
