"""A network with random weights as a model: its loss, its draws, and its doubt in a gap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.models.known_functions import KnownFunctions
from etude.models.model_rows import ModelRows
from etude.models.variational import Variational
from etude.spaces import Box, EnvironmentSpec

SPEC = EnvironmentSpec(Box((1,)), Box((1,), low=-1.0, high=1.0))
KEY = jax.random.key(0)
SMALL = Variational(hidden=(4,), draws=3, prior_std=0.7)


def rows_of(x, noise, seed=0):
    """Steps from x to x + sin x + noise; the action and the reward are 0."""
    n = len(x)
    change = np.sin(x) + noise * np.random.default_rng(seed).normal(size=n)
    column = lambda values: jnp.asarray(values, jnp.float32)[:, None]
    return ModelRows(
        observation=column(x),
        action=jnp.zeros((n, 1)),
        reward=jnp.zeros(n),
        next_observation=column(x + change),
        terminated=jnp.zeros(n, bool),
        number=jnp.arange(n, dtype=jnp.int32),
        is_valid=jnp.ones(n, bool),
    )


def test_the_loss_weighs_the_prior_by_the_rows_in_training():
    """Two numbers of rows give the KL divergence, which NumPy sums over the weights."""
    weights = SMALL.make_weights(KEY, 2, 2)
    x, y = jnp.ones((1, 5, 2)), jnp.zeros((1, 5, 2))
    few, many = (float(SMALL.loss(weights, x, y, KEY, jnp.float32(n))) for n in (10, 1000))
    kl = 0.0
    for layer in weights.network.layers:
        for mean, rho in zip(
            *(jax.tree.leaves(part) for part in (layer.mean, layer.rho)), strict=True
        ):
            mean, std = np.float64(mean), np.log1p(np.exp(np.float64(rho)))
            kl += (np.log(0.7 / std) + (std**2 + mean**2) / (2 * 0.7**2) - 0.5).sum()
    np.testing.assert_allclose((few - many) / (1 / 10 - 1 / 1000), kl, rtol=1e-4)


def test_a_member_is_a_draw_of_all_weights_that_lasts_for_the_plan():
    """Steps of one planning model have the same members; another key draws others."""
    state = SMALL.init(KEY, SPEC, KnownFunctions())
    one, same, other = (
        SMALL.planning_model(state, jax.random.key(seed), "ts-infinity").members
        for seed in (1, 1, 2)
    )
    first, again, elsewhere = (members.mlp.layers[0].weight for members in (one, same, other))
    assert first.shape == (3, 4, 2)
    np.testing.assert_array_equal(first, again)
    assert (first != elsewhere).all() and (first[0] != first[1]).all()


@pytest.mark.system
@pytest.mark.parametrize("seed", range(3))
def test_it_doubts_where_there_were_no_data(seed):
    """In a gap of half the data's range its draws differ five times as much as beside it."""
    draw = np.random.default_rng(seed).uniform(1.5, 3, 800)
    rows = rows_of(np.where(np.arange(800) % 2, draw, -draw), noise=0.1, seed=seed)
    kind = Variational(draws=20)
    key_init, key_fit, key_predict = jax.random.split(jax.random.key(seed), 3)
    state, _ = jax.jit(kind.fit)(kind.init(key_init, SPEC, KnownFunctions()), rows, key_fit)

    def spread(x):
        points = jnp.asarray(x, jnp.float32)[:, None]
        predicted = kind.predict(state, points, jnp.zeros_like(points), key_predict)
        return np.sqrt(predicted.epistemic[:, 0]).mean()

    assert spread(np.linspace(-0.5, 0.5, 20)) > 5 * spread(np.linspace(1.6, 2.9, 20))
