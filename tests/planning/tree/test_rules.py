"""PUCT against mctx: the same visits of the root's actions, from random tables without ties."""

import jax
import jax.numpy as jnp
import mctx
import numpy as np
import pytest

from etude.planning.protocol import LiftedModel, ModelStep
from etude.planning.tree.mcts import search
from etude.planning.tree.rules import PUCT, first_max
from etude.planning.tree.tree import SearchSettings, Tree, action_bits, to_bits, untried_rank
from etude.struct import struct

STATES, ACTIONS, ROOTS = 20, 5, 8
NO_ACTION = -1e9  # the prior logit of an illegal action below mctx's root


@struct
class Tables:
    """A random MDP, and a random evaluation of it."""

    successor: jax.Array  # [state, action]
    reward: jax.Array
    continues: jax.Array
    legal: jax.Array
    logits: jax.Array
    value: jax.Array  # [state]


def random_tables(rng):
    shape = STATES, ACTIONS
    legal = rng.random(shape) < 0.7
    legal[np.arange(STATES), rng.integers(ACTIONS, size=STATES)] = True
    return Tables(
        jnp.int32(rng.integers(STATES, size=shape)),
        *(jnp.float32(x) for x in (rng.normal(size=shape), rng.random(shape) > 0.1)),
        jnp.asarray(legal),
        *(jnp.float32(rng.normal(size=size)) for size in (shape, STATES)),
    )


def search_etude(tables, state, legal, rule, settings):
    def step(state, action, key):
        at = state, action
        return ModelStep(tables.successor[at], tables.reward[at], tables.continues[at])

    model = LiftedModel(step, legal_one=lambda state: tables.legal[state])
    evaluate = lambda state, key, steps_left: (
        tables.logits[state[0, 0]],
        tables.value[state[0, 0]],
    )
    key = jax.random.key(0)
    return search(model, state[None, None], legal, evaluate, rule, rule, key, settings)


def search_mctx(tables, states, legal, rule, discount, *, simulations, horizon):
    def step(params, key, action, state):
        at, after = (state, action), tables.successor[state, action]
        return mctx.RecurrentFnOutput(
            reward=tables.reward[at],
            discount=discount * tables.continues[at],
            prior_logits=jnp.where(tables.legal[after], tables.logits[after], NO_ACTION),
            value=tables.value[after],
        ), after

    return mctx.muzero_policy(
        (),
        jax.random.key(0),
        mctx.RootFnOutput(
            prior_logits=tables.logits[states], value=tables.value[states], embedding=states
        ),
        step,
        simulations,
        invalid_actions=~legal,
        max_depth=horizon,
        dirichlet_fraction=0.0,
        pb_c_init=rule.c_init,
        pb_c_base=rule.c_base,
    ).search_tree.summary()


@pytest.mark.slow
def test_puct_visits_as_mctx_does():
    """From several roots with masks of their own, of several tables, for one player and for two."""
    rng = np.random.default_rng(7)
    ours = jax.jit(jax.vmap(search_etude, (None, 0, 0, None, None)))
    theirs = jax.jit(search_mctx, static_argnames=("simulations", "horizon"))
    one, two = SearchSettings(100, horizon=6, discount=0.9), SearchSettings(100, 6, players=2)
    cases = (one, PUCT()), (two, PUCT()), (one, PUCT(2.0, 50.0)), (two, PUCT(0.5))
    for settings, rule in cases:
        tables = random_tables(rng)
        states = jnp.int32(rng.choice(STATES, ROOTS, replace=False))
        legal = rng.random((ROOTS, ACTIONS)) < 0.7
        legal[np.arange(ROOTS), rng.integers(ACTIONS, size=ROOTS)] = True
        found = ours(tables, states, jnp.asarray(legal), rule, settings)
        discount = jnp.float32(settings.bootstrap_discount)
        expected = theirs(
            tables, states, jnp.asarray(legal), rule, discount, simulations=100, horizon=6
        )
        np.testing.assert_array_equal(found.visits, expected.visit_counts)
        assert (found.visits.sum(1) == settings.simulations).all()
        tried = np.asarray(found.visits) > 0
        np.testing.assert_allclose(found.values[tried], expected.qvalues[tried], atol=1e-4)
        assert not tried[~legal].any() and tried.sum() > 2 * ROOTS


def test_untried_actions_are_counted_by_bits():
    rng = np.random.default_rng(0)
    for num_actions in (1, 9, 32, 33, 70):
        masks = rng.random((3, num_actions)) < 0.5
        words = np.stack([to_bits(jnp.asarray(mask)) for mask in masks])
        children = np.zeros(masks.shape, int)
        assert action_bits(num_actions).shape == (-(-num_actions // 32), num_actions)
        for node, mask in enumerate(masks):
            tree = Tree((), children, masks, words, *[None] * 7)
            np.testing.assert_array_equal(untried_rank(tree, node), np.cumsum(mask))


def test_the_first_of_the_greatest_is_taken():
    scores = np.float32([[1, 3, 3], [-np.inf, -np.inf, -2], [5, 1, 5]])
    np.testing.assert_array_equal(jax.vmap(first_max)(scores), scores.argmax(1))
