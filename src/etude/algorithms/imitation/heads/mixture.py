"""One of several actions, each with its noise: a mixture of normals (Bishop, 1994).

    L = -E[log Σₖ wₖ(s) N(a; μₖ(s), σₖ(s)²)]

The components are normals of a whole chunk, with independent elements: the actions of a chunk
belong to the same one. To act, a component is drawn by the weights w, and its mean is done.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from etude.algorithms.imitation.heads.action_head import (
    Context,
    box_for,
    keep_network,
    per_action,
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
    """Three linear layers: to the logits of the weights w, the means μ, and what makes σ."""

    logits: eqx.nn.Linear
    means: eqx.nn.Linear
    spreads: eqx.nn.Linear
    space: Box = static()
    shape: tuple[int, int, int] = static()  # [component, chunk, n]

    def __call__(self, features: Array) -> tuple[Array, Array, Array]:
        """(log w [..., component], μ [..., component, chunk, n], softplus of the spread)."""
        mean, spread = (
            affine(layer, features).reshape(*features.shape[:-1], *self.shape)
            for layer in (self.means, self.spreads)
        )
        log_weight = jax.nn.log_softmax(affine(self.logits, features))
        return log_weight, mean, jax.nn.softplus(spread)


@struct
class Mixture:
    """One of several actions, each with its noise, a mixture of normals: for Box actions."""

    components: int = static(5, at_least=1)
    """Components of the mixture."""
    min_std: float = traced(0.01, above=0)
    """Least standard deviation of a component, without which the likelihood of actions that are
    fitted exactly would have no upper bound."""

    is_deterministic: ClassVar[bool] = False

    def make(
        self, key: Array, space: Space, num_features: int, chunk: int, activation: Activation
    ) -> MixtureNetwork:
        """Components that are equally likely in all states, with means apart from each other."""
        box = box_for(self, space)
        key_logits, key_means, key_spreads, key_places = jax.random.split(key, 4)
        shape = self.components, chunk, num_parameters(space)
        size = self.components * chunk * num_parameters(space)
        means = make_orthogonal_layer(key_means, num_features, size, 0.01)
        places = spread_out(key_places, *shape[::2])
        bias = jnp.broadcast_to(places[:, None], shape).ravel()
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
        """log π(a|s) of the actions of a chunk that count, [...]."""
        log_weight, mean, spread = network(context.features)
        vectors = to_vectors(action, is_valid)[..., None, :, :]
        log_density = jax.scipy.stats.norm.logpdf(vectors, mean, self.min_std + spread).sum(-1)
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
        log_weight, mean, spread = network(context.features)
        component = jax.random.categorical(key_component, log_weight)[..., None, None, None]
        mean, spread = (jnp.take_along_axis(x, component, -3)[..., 0, :, :] for x in (mean, spread))
        if explore:
            mean += (self.min_std + spread) * jax.random.normal(key_noise, mean.shape)
        return mean.reshape(*mean.shape[:-1], *network.space.shape)

    constrain = staticmethod(keep_network)


def spread_out(key: Array, count: int, n: int) -> Array:
    """Points [count, n] in [-1, 1]ⁿ, of which no two share a coordinate (a Latin hypercube)."""
    places = (2 * jnp.arange(count) + 1) / count - 1
    keys = jax.random.split(key, n)
    return jax.vmap(jax.random.permutation, (0, None), out_axes=1)(keys, places)
