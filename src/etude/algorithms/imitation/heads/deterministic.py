"""One action and no noise, by the mean squared error.

    L = E[|μ(s) - a|²] / n,   n the number of elements of an action

Its minimum is the mean action of the expert in each state. Where the expert does one thing or
another, the mean may be neither.
"""

from typing import ClassVar

import equinox as eqx

from etude.algorithms.imitation.heads.action_head import (
    Context,
    action_error,
    from_vectors,
    keep_network,
    require_box,
    squared_error,
    to_vectors,
    valid_weight,
)
from etude.nn.distributions import num_parameters
from etude.nn.linear import affine
from etude.nn.networks import Activation, make_orthogonal_layer
from etude.spaces import Box, Space
from etude.struct import static, struct
from etude.types import Array, Metrics


@struct
class DeterministicNetwork:
    """A linear layer to the actions."""

    layer: eqx.nn.Linear
    space: Box = static()
    chunk: int = static()

    def __call__(self, features: Array) -> Array:
        """The actions of a chunk, [..., chunk, *action]."""
        vectors = affine(self.layer, features)
        return from_vectors(vectors.reshape(*vectors.shape[:-1], self.chunk, -1), self.space)


@struct
class Deterministic:
    """One action and no noise, by the mean squared error: for Box actions."""

    is_deterministic: ClassVar[bool] = True

    def make(
        self, key: Array, space: Space, num_features: int, chunk: int, activation: Activation
    ) -> DeterministicNetwork:
        """A layer whose outputs are near zero at the start."""
        box = require_box(self, space)
        size = chunk * num_parameters(space)
        return DeterministicNetwork(
            make_orthogonal_layer(key, num_features, size, 0.01), box, chunk
        )

    def loss(
        self,
        network: DeterministicNetwork,
        context: Context,
        action: Array,
        is_valid: Array,
        key: Array,
    ) -> tuple[Array, Metrics]:
        """The mean of (μ(s) - a)² over the elements of actions."""
        predicted = network(context.features)
        loss = squared_error(to_vectors(predicted - action, network.space), is_valid)
        error = action_error(network.space, predicted, action, valid_weight(is_valid))
        return loss, {"squared_error": loss, "action_error": error}

    def act(
        self, network: DeterministicNetwork, context: Context, key: Array, explore: bool
    ) -> Array:
        """μ(s); there is no noise to explore with."""
        return network(context.features)

    constrain = staticmethod(keep_network)
