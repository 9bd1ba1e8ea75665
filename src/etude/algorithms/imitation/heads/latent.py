"""An action as a function of noise: a conditional variational autoencoder (Sohn et al., 2015).

    z ~ N(0, I),   a ~ N(μ(s, z), σ²)
    L = -E[log 1/K Σₖ N(a; μ(s, zₖ), σ²) (N(zₖ; 0, I) / q(zₖ|s, a))^β],   z₁, ..., z_K ~ q(z|s, a)

The encoder q(z|s, a) = N(m, v) says which z stands for a known action; it is needed in training
alone. The prior of z does not depend on s, unlike that of Sohn et al. With β = 1, L is an upper
bound of -log π(a|s), which gets tighter with K (Burda et al., 2016). With K = 1, L is the usual
loss, the reconstruction error plus β times KL(q ‖ N(0, I)); for other K and β, the power β inside
the average is ours.

With K = 1 the encoder keeps the z of different actions apart. The prior also draws z from the gaps
between them, and there the decoder mixes the actions. With more samples the z may overlap, and the
gaps close.

To act, z is drawn from the prior. One z stands for a whole chunk. Likelihoods are sums over
elements, not means, of actions as of z, so L with β = 1 is the bound for every size of either.
"""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from etude.algorithms.imitation.heads.action_head import (
    Context,
    from_vectors,
    per_action,
    require_box,
    to_vectors,
)
from etude.nn.distributions import Normal, num_parameters
from etude.nn.networks import MLP, Activation, make_mlp
from etude.spaces import Box, Space
from etude.struct import replace, static, struct, traced
from etude.types import Array, Metrics


@struct
class LatentNetwork:
    """An encoder from features and a chunk to a normal of z, and a decoder from features and z to
    the means of a chunk."""

    encoder: MLP
    decoder: MLP
    log_std: Array  # log σ [chunk * n], equal in all states
    space: Box = static()
    chunk: int = static()

    def posterior(self, features: Array, vectors: Array) -> Normal:
        """q(z|s, a) of actions [..., chunk, n]."""
        actions = vectors.reshape(*vectors.shape[:-2], -1)
        mean, log_std = jnp.split(self.encoder(jnp.concatenate([features, actions], -1)), 2, -1)
        return Normal(mean, log_std, mean.shape[-1:])

    def decode(self, features: Array, z: Array) -> Array:
        """μ(s, z), [..., chunk, n]."""
        mean = self.decoder(jnp.concatenate([features, z], -1))
        return mean.reshape(*mean.shape[:-1], self.chunk, -1)

    @property
    def std(self) -> Array:
        """σ, [chunk, n]."""
        return jnp.exp(self.log_std).reshape(self.chunk, -1)


@struct
class Latent:
    """A function of noise that is drawn first, a conditional VAE: for Box actions."""

    latent_size: int = static(4, at_least=1)
    """Size of the latent variable z."""
    samples: int = static(8, at_least=1)
    """Samples of z in the bound of each chunk."""
    beta: float = traced(1.0, at_least=0)
    """β: weight of how far the encoder is from the prior, per nat."""
    initial_std: float = traced(0.1, above=0)
    """Initial standard deviation σ of actions about the decoder's mean; a bounded Box is scaled to
    [-1, 1]. If it is larger than the distance of two modes, both are explained by noise at first,
    and z may stay unused."""
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
        box = require_box(self, space)
        key_encoder, key_decoder = jax.random.split(key)
        shape = chunk, num_parameters(space)
        num_inputs, size = num_features + math.prod(shape), self.latent_size
        encoder = make_mlp(key_encoder, (num_inputs, *self.hidden, 2 * size), activation)
        decoder = make_mlp(
            key_decoder, (num_features + size, *self.hidden, math.prod(shape)), activation
        )
        log_std = jnp.full(math.prod(shape), jnp.log(self.initial_std))
        return LatentNetwork(encoder, decoder, log_std, box, chunk)

    def loss(
        self, network: LatentNetwork, context: Context, action: Array, is_valid: Array, key: Array
    ) -> tuple[Array, Metrics]:
        """L, in nats per action; `nll_bound` is L with β = 1, a bound of the nll."""
        vectors = to_vectors(action, network.space)
        posterior = network.posterior(context.features, vectors)

        def score_sample(key):
            """(log N(a; μ(s, z), σ²), log N(z; 0, I) - log q(z|s, a)) of a drawn z, [...] each."""
            z = posterior.sample(key)
            mean = network.decode(context.features, z)
            log_prob = jax.scipy.stats.norm.logpdf(vectors, mean, network.std).sum(-1)
            log_ratio = jax.scipy.stats.norm.logpdf(z).sum(-1) - posterior.log_prob(z)
            return (is_valid * log_prob).sum(-1), log_ratio

        keys = jax.random.split(key, self.samples)
        log_prob, log_ratio = jax.vmap(score_sample)(keys)  # [sample, ...]
        bound, nll_bound = (
            math.log(self.samples) - jax.nn.logsumexp(log_prob + beta * log_ratio, 0)
            for beta in (self.beta, 1.0)
        )
        zeros = jnp.zeros(self.latent_size)
        kl = posterior.kl(Normal(zeros, zeros, zeros.shape))  # [...]
        return per_action(bound, is_valid), {
            "nll_bound": per_action(nll_bound, is_valid),
            "latent_kl": per_action(kl, is_valid),
        }

    def act(self, network: LatentNetwork, context: Context, key: Array, explore: bool) -> Array:
        """μ(s, z) with z of the prior; with `explore` a sample about it."""
        key_z, key_noise = jax.random.split(key)
        z = jax.random.normal(key_z, (*context.features.shape[:-1], self.latent_size))
        mean = network.decode(context.features, z)
        if explore:
            mean += network.std * jax.random.normal(key_noise, mean.shape)
        return from_vectors(mean, network.space)

    def constrain(self, network: LatentNetwork) -> LatentNetwork:
        """The network with standard deviations of at least `min_std`."""
        return replace(network, log_std=jnp.maximum(network.log_std, jnp.log(self.min_std)))
