"""Networks that explore by themselves: weights with learned noise (Fortunato et al., 2018)."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from etude.struct import replace, struct
from etude.types import Array


@struct
class NoisyLinear:
    """A layer whose every weight has a mean and a learned spread; applied as it is, it takes the
    means.

        w = μ + σ ε,   ε[out, in] = f(ε_out) f(ε_in),   f(x) = sgn(x) √|x|        (eqs. 9 to 11)
    """

    weight: Array  # μ, [outputs, inputs]
    bias: Array  # μ, [outputs]
    weight_sigma: Array  # σ
    bias_sigma: Array


def add_noise_layers(network: Any, spread: float | Array) -> Any:
    """The network with a NoisyLinear in place of every linear layer, σ = `spread` / √inputs at the
    start."""

    def noisy(layer: eqx.nn.Linear) -> NoisyLinear:
        start = spread / math.sqrt(layer.weight.shape[1])
        bias = jnp.zeros(layer.weight.shape[0]) if layer.bias is None else layer.bias
        return NoisyLinear(
            layer.weight, bias, jnp.full_like(layer.weight, start), jnp.full_like(bias, start)
        )

    return _map_layers(eqx.nn.Linear, noisy, network)


def sample_noise(network: Any, key: Array) -> Any:
    """The network with its noise drawn once, for everything that is put to it; without noisy
    layers, the network itself."""
    layers = [x for x in jax.tree.leaves(network, is_leaf=_is_noisy) if _is_noisy(x)]
    # one draw is quicker than many
    noise = jax.random.normal(key, (sum(sum(layer.weight.shape) for layer in layers),))
    noise, start = jnp.sign(noise) * jnp.sqrt(jnp.abs(noise)), 0

    def draw(layer: NoisyLinear) -> NoisyLinear:
        nonlocal start
        outputs, inputs = layer.weight.shape
        out, into = jnp.split(noise[start : start + outputs + inputs], [outputs])
        start += outputs + inputs
        return replace(
            layer,
            weight=layer.weight + layer.weight_sigma * out[:, None] * into,
            bias=layer.bias + layer.bias_sigma * out,
        )

    return _map_layers(NoisyLinear, draw, network) if layers else network


def _is_noisy(x: Any) -> bool:
    return isinstance(x, NoisyLinear)


def _map_layers(kind: type, change: Any, network: Any) -> Any:
    """The network with every layer of a kind changed."""
    return jax.tree.map(
        lambda x: change(x) if isinstance(x, kind) else x,
        network,
        is_leaf=lambda x: isinstance(x, kind),
    )
