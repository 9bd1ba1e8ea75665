"""One of several actions, each with its noise: a mixture of normals (Bishop, 1994).

    L = -E[log Σₖ wₖ(s) N(a; μₖ(s), σₖ(s)²)],   σₖ(s) = min_std + softplus(a linear layer)

The components are normals of a whole chunk, with independent elements and a σ for each of them: the
actions of a chunk belong to the same component. To act, a component is drawn by the weights w, and
its mean is the action.
"""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from etude.algorithms.imitation.heads.action_head import (
    Context,
    from_vectors,
    keep_network,
    per_action,
    require_box,
    to_vectors,
)
from etude.nn.distributions import num_parameters
from etude.nn.linear import affine
from etude.nn.networks import Activation, make_orthogonal_layer
from etude.spaces import Box, Space
from etude.struct import static, struct, traced
from etude.types import Array, Metrics


@struct
class MixtureNetwork:
    """Three linear layers: to the logits of the weights w, to the means μ, and to what makes σ."""

    logits: eqx.nn.Linear
    means: eqx.nn.Linear
    spreads: eqx.nn.Linear
    space: Box = static()
    shape: tuple[int, int, int] = static()  # [component, chunk, n]

    def components(self, features: Array, min_std: Array | float) -> tuple[Array, Array, Array]:
        """(log w [..., component], μ [..., component, chunk, n], σ of the same shape)."""
        mean, spread = (
            affine(layer, features).reshape(*features.shape[:-1], *self.shape)
            for layer in (self.means, self.spreads)
        )
        log_weight = jax.nn.log_softmax(affine(self.logits, features))
        return log_weight, mean, min_std + jax.nn.softplus(spread)


@struct
class Mixture:
    """One of several actions, each with its noise, a mixture of normals: for Box actions."""

    components: int = static(5, at_least=1)
    """Components of the mixture."""
    min_std: float = traced(0.01, above=0)
    """Least standard deviation σ of a component, without which the likelihood of actions that are
    fitted exactly would have no upper bound."""

    is_deterministic: ClassVar[bool] = False

    def make(
        self, key: Array, space: Space, num_features: int, chunk: int, activation: Activation
    ) -> MixtureNetwork:
        """Components nearly equally likely at the start, with means apart from each other."""
        box = require_box(self, space)
        key_logits, key_means, key_spreads, key_places = jax.random.split(key, 4)
        shape = self.components, chunk, num_parameters(space)
        size = math.prod(shape)
        means = make_orthogonal_layer(key_means, num_features, size, 0.01)
        points = spread_out(key_places, self.components, num_parameters(space))
        bias = jnp.broadcast_to(points[:, None], shape).ravel()
        return MixtureNetwork(
            make_orthogonal_layer(key_logits, num_features, self.components, 0.01),
            eqx.tree_at(lambda layer: layer.bias, means, bias),
            make_orthogonal_layer(key_spreads, num_features, size, 0.01),
            box,
            shape,
        )

    def log_prob(
        self, network: MixtureNetwork, context: Context, action: Array, is_valid: Array
    ) -> Array:
        """log π(a|s) of the valid actions of each chunk, [...]."""
        log_weight, mean, std = network.components(context.features, self.min_std)
        vectors = to_vectors(action, network.space)[..., None, :, :]
        log_density = jax.scipy.stats.norm.logpdf(vectors, mean, std).sum(-1)
        of_component = (is_valid[..., None, :] * log_density).sum(-1)  # [..., component]
        return jax.nn.logsumexp(log_weight + of_component, -1)

    def loss(
        self, network: MixtureNetwork, context: Context, action: Array, is_valid: Array, key: Array
    ) -> tuple[Array, Metrics]:
        """-E[log π(a|s)], in nats per action."""
        nll = per_action(-self.log_prob(network, context, action, is_valid), is_valid)
        return nll, {"nll": nll}

    def act(self, network: MixtureNetwork, context: Context, key: Array, explore: bool) -> Array:
        """The mean of a component that is drawn; with `explore` a sample of it."""
        key_component, key_noise = jax.random.split(key)
        log_weight, mean, std = network.components(context.features, self.min_std)
        component = jax.random.categorical(key_component, log_weight)[..., None, None, None]
        mean, std = (jnp.take_along_axis(x, component, -3)[..., 0, :, :] for x in (mean, std))
        if explore:
            mean += std * jax.random.normal(key_noise, mean.shape)
        return from_vectors(mean, network.space)

    constrain = staticmethod(keep_network)


def spread_out(key: Array, count: int, n: int) -> Array:
    """Points [count, n] in [-1, 1]ⁿ, of which no two share a coordinate (a Latin hypercube)."""
    coordinates = (2 * jnp.arange(count) + 1) / count - 1
    keys = jax.random.split(key, n)
    return jax.vmap(jax.random.permutation, (0, None), out_axes=1)(keys, coordinates)
