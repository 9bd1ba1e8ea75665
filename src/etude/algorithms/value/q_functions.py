"""Q(s, a) as a network: here for discrete actions, whose values are all outputs of one pass."""

from typing import Any, Protocol

import jax.numpy as jnp

from etude.algorithms.common.exploration import random_choice
from etude.algorithms.value.heads import Head
from etude.nn.action_masks import legal_actions, masked
from etude.nn.custom_torso import TorsoMaker
from etude.nn.networks import (
    Activation,
    DuelingNetwork,
    Network,
    make_dueling_network,
    make_network,
)
from etude.nn.recurrent import GRU, LSTM
from etude.spaces import Discrete, Space
from etude.struct import static, struct
from etude.types import Array


class QFunction(Protocol):
    """What Q-learning asks of a Q function; the kinds differ in how they find the best action."""

    @property
    def head(self) -> Head: ...

    def outputs_for(self, observation: Any, action: Array) -> Array:
        """The network's outputs for an action [..., *action], [..., atom]."""
        ...

    def greedy_action(self, observation: Any, key: Array) -> Array:
        """argmaxₐ Q(s, a), [..., *action], by enumeration or by a sampling planner."""
        ...

    def random_action(self, observation: Any, key: Array, shape: tuple[int, ...]) -> Array:
        """Uniformly random legal actions, [*shape, *action], in observations [*shape, ...]."""
        ...


@struct
class DiscreteQ:
    """Values of all discrete actions from one forward pass."""

    network: Network | DuelingNetwork  # observation [..., *shape] -> [..., action * atom]
    head: Head = static()
    num_actions: int = static()
    observation_space: Space = static()

    def __call__(self, observation: Any) -> Array:
        """Q(s, ·), [..., action]; that of an illegal action is -inf."""
        return masked(self.head.mean(self.outputs(observation)), self.legal_actions(observation))

    def legal_actions(self, observation: Any) -> Array | None:
        """The legal actions, bool [..., action]; None where all always are."""
        return legal_actions(self.observation_space, Discrete(self.num_actions), observation)

    def outputs(self, observation: Any) -> Array:
        """The network's outputs for every action, [..., action, atom]."""
        outputs = self.network(observation)
        return outputs.reshape(*outputs.shape[:-1], self.num_actions, self.head.num_atoms)

    def outputs_for(self, observation: Any, action: Array) -> Array:
        """The network's outputs for `action` [...], [..., atom]."""
        outputs = self.outputs(observation)
        return jnp.take_along_axis(outputs, action[..., None, None], -2)[..., 0, :]

    def greedy_action(self, observation: Any, key: Array) -> Array:
        """argmaxₐ Q(s, a) over the legal actions, [...]; the key is not used."""
        return self(observation).argmax(-1)

    def random_action(self, observation: Any, key: Array, shape: tuple[int, ...]) -> Array:
        """Uniformly random legal actions, [*shape]."""
        return random_choice(key, shape, self.num_actions, self.legal_actions(observation))


def make_discrete_q(
    key: Array,
    observation: Space,
    num_actions: int,
    *,
    hidden: tuple[int, ...],
    activation: Activation,
    head: Head,
    recurrent: GRU | LSTM | None,
    dueling: bool = False,
    layer_norm: bool = False,
    torso: TorsoMaker | None = None,
) -> DiscreteQ:
    """A network with the values of all discrete actions.

    With `dueling`, value and advantages have separate streams (Wang et al., 2016), and `layer_norm`
    has no effect. With `recurrent` it reads a History in place of an observation.
    """
    network: Network | DuelingNetwork
    if dueling:
        network = make_dueling_network(
            key, observation, hidden, num_actions, head.num_atoms, activation, torso, recurrent
        )
    else:
        num_outputs = num_actions * head.num_atoms
        network = make_network(
            key,
            observation,
            hidden,
            num_outputs,
            activation,
            layer_norm=layer_norm,
            torso=torso,
            recurrent=recurrent,
        )
    return DiscreteQ(network, head, num_actions, observation)
