"""The maximizers as values of one kind."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filling import filled

from etude.errors import InvalidInput
from etude.nn.networks import make_network
from etude.planning.sampling.maximize import CEM, CMAES, RandomShooting
from etude.spaces import Box

KEYS = jax.random.split(jax.random.key(0), 6)
GRID = np.linspace(-1, 1, 2001, dtype=np.float32)[:, None]
every_method = pytest.mark.parametrize(
    "method", [RandomShooting(), CEM(elites=3), CMAES()], ids=lambda method: type(method).__name__
)


@pytest.mark.slow
@every_method
def test_each_evaluates_as_often_as_it_was_told_and_keeps_to_the_box(watched, method):
    score, seen = watched(lambda x: x.sum((1, 2)))
    best, value = jax.jit(lambda key: method.maximize(score, key, (2, 1), 12, 5))(KEYS[0])
    jax.effects_barrier()
    candidates = np.concatenate(seen)
    assert candidates.shape == (60, 2, 1) and best.shape == (2, 1) and value.shape == ()
    assert abs(candidates).max() <= 1
    assert value == candidates.sum((1, 2)).max() == best.sum()
    assert len(np.unique(candidates[:12, 0, 0])) > 6


@pytest.mark.slow
@every_method
def test_the_best_action_of_a_network_is_that_of_a_grid(method):
    """For every state of a batch at once; some of the best lie on the boundary, some inside."""
    q = filled(lambda: make_network(KEYS[0], Box((3,)), (16,), 1), 1, 1.0)
    states = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2)), jnp.float32)

    def value(state, action):
        both = jnp.concatenate([jnp.broadcast_to(state, (len(action), 2)), action], -1)
        return q(both)[:, 0] - action[:, 0] ** 2 / 2

    @jax.jit
    @jax.vmap
    def solve(state, key):
        return method.maximize(partial(value, state), key, (1,), 64, 6), value(state, GRID)

    (best, found), values = solve(states, KEYS)
    exact = GRID[values.argmax(-1), 0]
    inside = np.abs(exact) < 1
    assert inside.any() and not inside.all()
    np.testing.assert_allclose(found, values.max(-1), atol=0.05)
    np.testing.assert_allclose(best[:, 0], exact, atol=0.1)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(InvalidInput, match="elites is 9; of 8 samples"):
        CEM(elites=9).maximize(lambda x: x.sum(-1), KEYS[0], (2,), 8, 2)
    with pytest.raises(InvalidInput, match="samples is 1"):
        CMAES().maximize(lambda x: x.sum(-1), KEYS[0], (2,), 1, 2)
