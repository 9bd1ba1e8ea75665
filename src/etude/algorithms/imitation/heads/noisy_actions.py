"""The network of heads that turn noise into actions: it reads the state, noisy actions and time."""

import math

import jax.numpy as jnp

from etude.nn.distributions import num_parameters
from etude.nn.networks import MLP, Activation, make_mlp
from etude.spaces import Box
from etude.struct import static, struct
from etude.types import Array

# of the sines and cosines of the time; the slowest tells all times apart, and what the network
# learns changes smoothly with them, so few more do
FREQUENCIES = 4


@struct
class NoisyActionNetwork:
    """From features, noisy actions [..., chunk, n] and a time [...] in [0, 1] to [..., chunk, n].

    For flow that is a velocity, and time 1 is the action; for diffusion it is the noise, and time 0
    is the action.
    """

    mlp: MLP
    space: Box = static()
    chunk: int = static()

    def __call__(self, features: Array, noisy: Array, time: Array) -> Array:
        noisy_actions = noisy.reshape(*features.shape[:-1], -1)
        time = jnp.broadcast_to(time, features.shape[:-1])
        inputs = jnp.concatenate([features, noisy_actions, time_features(time)], -1)
        return self.mlp(inputs).reshape(noisy.shape)

    def noise_shape(self, features: Array) -> tuple[int, ...]:
        """The shape of the noise of chunks, [..., chunk, n]."""
        return *features.shape[:-1], self.chunk, num_parameters(self.space)


def make_noisy_action_network(
    key: Array,
    space: Box,
    num_features: int,
    chunk: int,
    hidden: tuple[int, ...],
    activation: Activation,
) -> NoisyActionNetwork:
    """A network for chunks of actions of `space`, with these hidden layers."""
    size = chunk * num_parameters(space)
    sizes = (num_features + size + 2 * FREQUENCIES, *hidden, size)
    return NoisyActionNetwork(make_mlp(key, sizes, activation), space, chunk)


def time_features(time: Array) -> Array:
    """sin(2ⁱ π τ) and cos(2ⁱ π τ) of times τ [...] in [0, 1], i = 0, 1, ..., as [..., feature]."""
    angle = math.pi * time[..., None] * 2.0 ** jnp.arange(FREQUENCIES)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)
