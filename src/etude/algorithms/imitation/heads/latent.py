"""An action as a function of noise: a conditional variational autoencoder (Sohn et al., 2015).

    z ~ N(0, I),   a ~ N(μ(s, z), σ²)
    L = E_q[-log N(a; μ(s, z), σ²)] + β KL(q(z|s, a) || N(0, I)) ≥ -log π(a|s)   for β = 1

The encoder q(z|s, a) = N(m, v) says which z stands for an action that is known; it is needed in
training alone. To act, z is drawn from the prior N(0, I). One z stands for a whole chunk. The
likelihood is a sum over the elements of the actions of a chunk, and KL one over those of z, so β is
in the same units for any size of either.
"""

import math

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
    beta: float = traced(1.0, at_least=0)
    """β: weight of the divergence of the encoder from the prior, per nat."""
    initial_std: float = traced(0.1, above=0)
    """Initial standard deviation σ of actions about the decoder's mean; a bounded Box is scaled to
    [-1, 1]. While it is smaller than the distance of two modes, z is worth its divergence."""
    min_std: float = traced(0.01, above=0)
    """Least standard deviation σ, without which the likelihood of actions that are fitted exactly
    would have no upper bound."""
    hidden: tuple[int, ...] = static((128, 128), at_least=1)
    """Units of each hidden layer of the encoder, and of the decoder."""

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
        """The negative evidence lower bound with weight β, in nats per action."""
        vectors = to_vectors(action, is_valid)
        posterior = network.posterior(context.features, vectors)
        mean = network.decode(context.features, posterior.sample(key))
        log_prob = jax.scipy.stats.norm.logpdf(vectors, mean, jnp.exp(network.log_std)).sum(-1)
        reconstruction = -(is_valid * log_prob).sum(-1)
        zeros = jnp.zeros(self.latent_size)
        kl = posterior.kl(Normal(zeros, zeros, zeros.shape))  # [...], one for each chunk
        return per_action(reconstruction + self.beta * kl, is_valid), {
            "nll_bound": per_action(reconstruction + kl, is_valid),
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
