"""An action as a function of noise: a conditional variational autoencoder (Sohn et al., 2015).

    z ~ N(0, I),   a ~ N(μ(s, z), σ²)
    L = -E[log 1/K Σₖ N(a; μ(s, zₖ), σ²) (N(zₖ; 0, I) / q(zₖ|s, a))^β],   z₁, ..., z_K ~ q(z|s, a)

The encoder q(z|s, a) = N(m, v) says which z stands for an action that is known; it is needed in
training alone. With β = 1, L is a bound of -log π(a|s), and with K = 1 it is the usual one, the
reconstruction and β times the divergence of q from the prior N(0, I). With more samples, those that
stand for another action count little (Burda et al., 2016). So the encoder needs no gaps between
what it takes for one action and for another, and z of the prior seldom falls into one, where the
decoder does what lies between them.

To act, z is drawn from the prior. One z stands for a whole chunk. The likelihood is a product over
the elements of the actions of a chunk, and the prior one over those of z, so β means the same for
any size of either.
"""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from etude.algorithms.imitation.heads.action_head import Context, box_for, per_action, to_vectors
from etude.nn.distributions import Normal, num_parameters
from etude.nn.networks import MLP, Activation, make_mlp
from etude.spaces import Box, Space
from etude.struct import replace, static, struct, traced
from etude.types import Array, Metrics


@struct
class LatentNetwork:
    """An encoder, features and chunk to a normal of z, and a decoder, features and z to a chunk."""

    encoder: MLP
    decoder: MLP
    log_std: Array  # log σ [chunk, n], equal in all states
    space: Box = static()

    def posterior(self, features: Array, vectors: Array) -> Normal:
        """q(z|s, a) of actions [..., chunk, n]."""
        actions = vectors.reshape(*vectors.shape[:-2], -1)
        mean, log_std = jnp.split(self.encoder(jnp.concatenate([features, actions], -1)), 2, -1)
        return Normal(mean, log_std, mean.shape[-1:])

    def decode(self, features: Array, z: Array) -> Array:
        """μ(s, z), [..., chunk, n]."""
        mean = self.decoder(jnp.concatenate([features, z], -1))
        return mean.reshape(*mean.shape[:-1], *self.log_std.shape)


@struct
class Latent:
    """A function of noise that is drawn first, a conditional VAE: for Box actions."""

    latent_size: int = static(4, at_least=1)
    """Numbers of the latent variable z."""
    samples: int = static(8, at_least=1)
    """Samples of z in the bound of each chunk."""
    beta: float = traced(1.0, at_least=0)
    """β: weight of how far the encoder is from the prior, per nat."""
    initial_std: float = traced(0.1, above=0)
    """Initial standard deviation σ of actions about the decoder's mean; a bounded Box is scaled to
    [-1, 1]. While it is smaller than the distance of two modes, z pays."""
    min_std: float = traced(0.1, above=0)
    """Least standard deviation σ, without which the likelihood of actions that are fitted exactly
    would have no upper bound."""
    hidden: tuple[int, ...] = static((128, 128), at_least=1)
    """Units of each hidden layer of the encoder, and of the decoder."""

    is_deterministic: ClassVar[bool] = False

    def make(
        self, key: Array, space: Space, num_features: int, chunk: int, activation: Activation
    ) -> LatentNetwork:
        """Encoder and decoder."""
        box = box_for(self, space)
        key_encoder, key_decoder = jax.random.split(key)
        shape = chunk, num_parameters(space)
        num_inputs, size = num_features + math.prod(shape), self.latent_size
        encoder = make_mlp(key_encoder, (num_inputs, *self.hidden, 2 * size), activation)
        decoder = make_mlp(
            key_decoder, (num_features + size, *self.hidden, math.prod(shape)), activation
        )
        return LatentNetwork(encoder, decoder, jnp.full(shape, jnp.log(self.initial_std)), box)

    def loss(
        self, network: LatentNetwork, context: Context, action: Array, is_valid: Array, key: Array
    ) -> tuple[Array, Metrics]:
        """The bound L, in nats per action."""
        vectors = to_vectors(action, is_valid)
        posterior = network.posterior(context.features, vectors)

        def draw(key):
            """(log N(a; μ(s, z), σ²), log N(z; 0, I) - log q(z|s, a)), [...] each."""
            z = posterior.sample(key)
            mean = network.decode(context.features, z)
            log_prob = jax.scipy.stats.norm.logpdf(vectors, mean, jnp.exp(network.log_std)).sum(-1)
            log_ratio = jax.scipy.stats.norm.logpdf(z).sum(-1) - posterior.log_prob(z)
            return (is_valid * log_prob).sum(-1), log_ratio

        log_prob, log_ratio = jax.vmap(draw)(jax.random.split(key, self.samples))  # [sample, ...]
        bound, nll_bound = (
            math.log(self.samples) - jax.nn.logsumexp(log_prob + beta * log_ratio, 0)
            for beta in (self.beta, 1.0)
        )
        zeros = jnp.zeros(self.latent_size)
        kl = posterior.kl(Normal(zeros, zeros, zeros.shape))  # [...], one for each chunk
        return per_action(bound, is_valid), {
            "nll_bound": per_action(nll_bound, is_valid),
            "latent_kl": kl.mean(),
        }

    def act(self, network: LatentNetwork, context: Context, key: Array, explore: bool) -> Array:
        """μ(s, z) with z of the prior; with `explore` a sample about it."""
        key_z, key_noise = jax.random.split(key)
        z = jax.random.normal(key_z, (*context.features.shape[:-1], self.latent_size))
        mean = network.decode(context.features, z)
        if explore:
            mean += jnp.exp(network.log_std) * jax.random.normal(key_noise, mean.shape)
        return mean.reshape(*mean.shape[:-1], *network.space.shape)

    def constrain(self, network: LatentNetwork) -> LatentNetwork:
        """No standard deviation is below its least."""
        return replace(network, log_std=jnp.maximum(network.log_std, jnp.log(self.min_std)))
