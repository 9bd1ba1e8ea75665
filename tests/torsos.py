"""Networks of a user's own, for tests."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from etude.nn.networks import make_encoder


class Own(eqx.Module):
    """An encoder and an MLP of Equinox, which has functions among its leaves."""

    encoder: Any
    mlp: eqx.nn.MLP

    def __init__(self, key, space, features=2):
        self.encoder = make_encoder(key, space)
        size = jax.eval_shape(self.encoder, space.zeros()).size
        self.mlp = eqx.nn.MLP(size, features, 2, 1, jax.nn.silu, key=key)

    def __call__(self, observation):
        return self.mlp(self.encoder(observation))


def wider(key, space):
    """The same with more features."""
    return Own(key, space, 3)


def own(key, space):
    return Own(key, space)


def apply_plain(params, observation):
    leaves = [jnp.ravel(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(observation)]
    return jnp.tanh(params["weight"] @ jnp.concatenate(leaves) * params["scale"])


def plain(key, space):
    """Plain functions: a weight, and a number that is not trained."""
    size = sum(leaf.size for leaf in jax.tree.leaves(space.zeros()))
    params = {"weight": jax.random.normal(key, (2, size)), "scale": 0.5}
    return jax.tree_util.Partial(apply_plain, params)
