"""One action and its noise: the distribution that policy gradients use, for every kind of action.

    L = -E[log π(a|s)] - c E[H(π(·|s))],   π = categorical, Bernoulli, or N(μ(s), σ²)

c is `entropy_coefficient`. The mean μ(s) is fitted to the actions, and the standard deviation σ,
the same in all states, to the residual errors. The elements of an action, and the actions of a
chunk, are independent.
"""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp

from etude.algorithms.imitation.heads.action_head import Context, action_error, valid_weight
from etude.estimators.losses import weighted_nll
from etude.nn import distributions
from etude.nn.distributions import Distribution
from etude.nn.linear import affine
from etude.nn.networks import Activation, make_orthogonal_layer
from etude.spaces import Box, Space
from etude.struct import replace, static, struct, traced
from etude.types import Array, Metrics


@struct
class DirectNetwork:
    """A linear layer to the parameters of the distribution over actions."""

    layer: eqx.nn.Linear
    log_std: Array  # of a Box, [chunk * n], equal in all states; else empty
    space: Space = static()
    chunk: int = static()

    def distribution(self, context: Context) -> Distribution:
        """π(·|s) of each action of a chunk, [..., chunk]."""
        by_action = self.chunk, distributions.num_parameters(self.space)
        parameters = affine(self.layer, context.features)
        parameters = parameters.reshape(*parameters.shape[:-1], *by_action)
        log_std = self.log_std.reshape(by_action) if isinstance(self.space, Box) else ()
        pi = distributions.distribution_for(self.space, parameters, log_std)
        if context.legal is None:
            return pi
        return distributions.masked_distribution(pi, context.legal[..., None, :])


@struct
class Direct:
    """One action and its noise: categorical, Bernoulli or normal."""

    initial_std: float = traced(1.0, above=0)
    """Initial standard deviation of Box actions; a bounded Box is scaled to [-1, 1]; no effect with
    other action spaces."""
    min_std: float = traced(0.01, above=0)
    """Least standard deviation of Box actions, without which the likelihood of actions that are
    fitted exactly would have no upper bound; no effect with other action spaces."""
    entropy_coefficient: float = traced(0.0, at_least=0)
    """Weight of the entropy bonus, per nat, in the loss; larger values keep the policy
    random."""

    is_deterministic: ClassVar[bool] = True

    def make(
        self, key: Array, space: Space, num_features: int, chunk: int, activation: Activation
    ) -> DirectNetwork:
        """A layer whose outputs start near zero, as in `etude.nn.policies.make_policy`."""
        size = chunk * distributions.num_parameters(space)
        layer = make_orthogonal_layer(key, num_features, size, 0.01)
        log_std = jnp.full(size if isinstance(space, Box) else 0, jnp.log(self.initial_std))
        return DirectNetwork(layer, log_std, space, chunk)

    def loss(
        self, network: DirectNetwork, context: Context, action: Array, is_valid: Array, key: Array
    ) -> tuple[Array, Metrics]:
        """-E[log π(a|s)], minus the entropy bonus."""
        pi, weight = network.distribution(context), valid_weight(is_valid)
        nll = weighted_nll(pi.log_prob(action), weight)
        entropy = (weight * pi.entropy()).mean()
        error = action_error(network.space, pi.mode(), action, weight)
        metrics = {"nll": nll, "entropy": entropy, "action_error": error}
        return nll - self.entropy_coefficient * entropy, metrics

    def act(self, network: DirectNetwork, context: Context, key: Array, explore: bool) -> Array:
        """Samples of π, or without `explore` its modes."""
        pi = network.distribution(context)
        return pi.sample(key) if explore else pi.mode()

    def constrain(self, network: DirectNetwork) -> DirectNetwork:
        """The network with standard deviations of at least `min_std`."""
        return replace(network, log_std=jnp.maximum(network.log_std, jnp.log(self.min_std)))
