"""Critics Q(s, a) for continuous actions: networks of the observation and the action."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from etude.nn.custom_torso import TorsoMaker
from etude.nn.networks import (
    Activation,
    Network,
    encode_leaf,
    make_mlp,
    make_network,
    make_network_encoder,
)
from etude.nn.recurrent import GRU, LSTM
from etude.spaces import Composite, EnvironmentSpec, Space
from etude.struct import static, struct
from etude.types import Array

Critics = tuple[Network, ...]  # each maps (observation, action) to [..., 1]


@struct
class HistoryActionEncoder:
    """(History, action) to features: those of the history, and the action as it is."""

    history_encoder: Callable[[Any], Array]
    action_space: Space = static()

    def __call__(self, inputs: tuple[Any, Array]) -> Array:
        history, action = inputs
        features = self.history_encoder(history)
        return jnp.concatenate([features, encode_leaf(self.action_space, action)], -1)


def make_critics(
    key: Array,
    spec: EnvironmentSpec,
    hidden: Sequence[int],
    activation: Activation = "relu",
    num_critics: int = 2,
    torso: TorsoMaker | None = None,
    recurrent: GRU | LSTM | None = None,
) -> Critics:
    """`num_critics` networks that differ in their weights; two are twins (Fujimoto et al., 2018).

    They are a tuple and not one network with a leading axis, whose batched products are slower on a
    CPU than one product for each critic. With `recurrent` each has a cell, whose carry follows that
    of the policy in a History.
    """
    keys = jax.random.split(key, num_critics)
    if recurrent:
        return tuple(
            make_recurrent_critic(key, spec, hidden, activation, torso, recurrent, carry_index)
            for carry_index, key in enumerate(keys, start=1)
        )
    space = Composite((spec.observation, spec.action))
    return tuple(make_network(key, space, hidden, 1, activation, torso=torso) for key in keys)


def make_recurrent_critic(
    key: Array,
    spec: EnvironmentSpec,
    hidden: Sequence[int],
    activation: Activation,
    torso: TorsoMaker | None,
    recurrent: GRU | LSTM,
    carry_index: int,
) -> Network:
    """A critic that reads (History, action); the carry of its cell is at the index `carry_index`.

    The network that `torso` makes reads the observation; the hidden layers follow the action.
    """
    key_encoder, key_head = jax.random.split(key)
    encoder, num_features = make_network_encoder(
        key_encoder, spec.observation, torso, recurrent, carry_index
    )
    num_inputs = num_features + spec.action.zeros().size
    head = make_mlp(key_head, (num_inputs, *hidden, 1), activation)
    return Network(HistoryActionEncoder(encoder, spec.action), head)


def critic_values(critics: Critics, observation, action: Array) -> Array:
    """Q(s, a) of each critic, [critic, ...].

    Actions are the policy's, in [-1, 1] where the Box is bounded.
    """
    return jnp.stack([critic((observation, action))[..., 0] for critic in critics])
