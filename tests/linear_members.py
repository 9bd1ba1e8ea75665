"""A learned model whose members are linear, s' = a s and r = s, so that its returns are known."""

import jax
import jax.numpy as jnp

from etude.models.ensemble import Ensemble
from etude.models.gaussian_network import GaussianNetwork, LogVarianceBounds
from etude.models.known_functions import KnownFunctions
from etude.spaces import Box, EnvironmentSpec
from etude.struct import replace

SPEC = EnvironmentSpec(Box((1,)), Box((1,), low=-1.0, high=1.0), 1)


def linear_model(factors, propagation, noise=0.0, push=0.0):
    """Member m steps s' = factors[m] s + push u with noise of this deviation; the reward is s."""
    kind = Ensemble(members=len(factors), elites=len(factors), hidden=(), has_noise=noise > 0)
    state = kind.init(jax.random.key(0), SPEC, KnownFunctions())
    zeros = jnp.zeros(len(factors))
    # columns: s, u; rows: s' - s, r
    change = jnp.stack([jnp.float32(factors) - 1, zeros + push], -1)
    weight = jnp.stack([change, jnp.stack([zeros + 1, zeros], -1)], 1)
    if noise > 0:
        weight = jnp.concatenate([weight, jnp.zeros_like(weight)], 1)
    leaves, tree = jax.tree.flatten(state.weights.mlp)
    mlp = jax.tree.unflatten(tree, [weight if x.ndim == 3 else jnp.zeros(x.shape) for x in leaves])
    level = jnp.full((len(factors), 2), 2 * jnp.log(noise) if noise else 0.0)
    bounds = LogVarianceBounds(level + 1e-6, level - 1e-6)
    # the mean of 0 and the wide spread of the inputs leave them as they are, and nothing diverges
    inputs = replace(state.inputs, std=jnp.ones(2))
    state = replace(
        state, weights=GaussianNetwork(mlp, bounds, noise > 0), inputs=inputs, num_rows=jnp.int32(1)
    )
    return kind.planning_model(state, jax.random.key(0), propagation, ends=False)
