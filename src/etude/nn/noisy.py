"""Noisy networks: exploration by weights with learned noise (Fortunato et al., 2018)."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from etude.nn.recurrent import GRUCell, LSTMCell
from etude.struct import replace, struct, traced
from etude.types import Array


@struct
class NoisyLayers:
    """Noisy layers as a setting of an algorithm."""

    sigma: float = traced(0.5, above=0)
    """Initial noise scale σ₀: the scale of a weight's noise is σ₀ / √inputs."""


@struct
class NoisyLinear:
    """A linear layer whose weights are normal with learned mean and scale.

        w = μ + σ ε,   ε[out, in] = f(ε_out) f(ε_in),   f(x) = sgn(x) √|x|        (eqs. 9 to 11)

    Applied without a call of `sample_noise`, it uses the means.
    """

    weight: Array  # μ, [outputs, inputs]
    bias: Array  # μ, [outputs]
    weight_sigma: Array  # σ
    bias_sigma: Array


def add_noise_layers(network: Any, sigma: float | Array) -> Any:
    """The network with NoisyLinear layers for its linear ones, initially σ = `sigma` / √inputs.

    Recurrent cells stay as they are, since a carry outlives the noise of one step.
    """

    def to_noisy(layer: eqx.nn.Linear) -> NoisyLinear:
        initial_sigma = sigma / math.sqrt(layer.weight.shape[1])
        bias = jnp.zeros(layer.weight.shape[0]) if layer.bias is None else layer.bias
        return NoisyLinear(
            layer.weight,
            bias,
            jnp.full_like(layer.weight, initial_sigma),
            jnp.full_like(bias, initial_sigma),
        )

    return _map_layers(eqx.nn.Linear, to_noisy, network)


def sample_noise(network: Any, key: Array) -> Any:
    """The network with one sample of its noise, the same for all inputs.

    A network without noisy layers is returned as it is.
    """
    layers = [x for x in jax.tree.leaves(network, is_leaf=_is_noisy) if _is_noisy(x)]
    # one call of the generator is faster than one for each layer
    noise = jax.random.normal(key, (sum(sum(layer.weight.shape) for layer in layers),))
    noise, offset = jnp.sign(noise) * jnp.sqrt(jnp.abs(noise)), 0

    def add_noise(layer: NoisyLinear) -> NoisyLinear:
        nonlocal offset
        outputs, inputs = layer.weight.shape
        output_noise, input_noise = jnp.split(noise[offset : offset + outputs + inputs], [outputs])
        offset += outputs + inputs
        return replace(
            layer,
            weight=layer.weight + layer.weight_sigma * output_noise[:, None] * input_noise,
            bias=layer.bias + layer.bias_sigma * output_noise,
        )

    return _map_layers(NoisyLinear, add_noise, network) if layers else network


def _is_noisy(x: Any) -> bool:
    return isinstance(x, NoisyLinear)


def _map_layers(layer_type: type, function: Any, network: Any) -> Any:
    """The network with `function` applied to every layer of a type, but for recurrent cells."""
    return jax.tree.map(
        lambda x: function(x) if isinstance(x, layer_type) else x,
        network,
        is_leaf=lambda x: isinstance(x, (layer_type, GRUCell, LSTMCell)),
    )
