"""The tightrope in JAX and for Gymnasium: equal step by step, and what walkers cost on it."""

import itertools
import warnings

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from twins import play_both

import etude
from etude.algorithms.control.heuristic import Heuristic
from etude.environments.registry import env_factory
from etude.environments.tasks.picture import FAILURE, POINT, SUCCESS
from etude.environments.tasks.tightrope import Tightrope, limited_tightrope
from etude.environments.tasks.tightrope_env import SIDE, TightropeEnv, empty_net
from etude.rollout import BoundPolicy, evaluate
from etude.tabular.compounding_error import cloning_cost, dagger_cost

NAME = "etude/Tightrope-v0"


@pytest.fixture(scope="module")
def ropes():
    """2,000 walkers in JAX."""
    return etude.make(NAME, 2000, "jax")


def test_both_kinds_step_alike_and_as_the_task_says():
    """Every place and action, by a table written out, and the limit of 100 steps."""
    actions = np.random.default_rng(0).integers(3, size=120)
    env = env_factory(NAME)()
    assert env.reset(seed=0) == (1, {})
    port = limited_tightrope()
    state, first = port.reset(jax.random.key(0))
    assert int(first) == 1
    places, total, terminated, _ = play_both(port, state, env, actions)
    #        left ahead right
    table = {0: (0, 0, 1), 1: (0, 1, 2), 2: (1, 2, 2)}
    expected = list(itertools.accumulate(actions, lambda place, a: table[place][a], initial=1))
    np.testing.assert_array_equal(places, expected[1:101])
    assert set(zip(expected[:100], actions, strict=False)) == set(
        itertools.product(range(3), range(3))
    )
    assert total == -np.sum(places != 1) and not terminated


def test_it_is_an_environment_of_gymnasium():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "(?s).*gymnasium.make")  # the check asks for it
        check_env(TightropeEnv("rgb_array"))
    in_jax, in_python = (etude.make(NAME, 2, backend).spec for backend in ("jax", "gymnasium"))
    assert (in_jax.observation, in_jax.action) == (in_python.observation, in_python.action)
    assert gymnasium.spec(NAME).max_episode_steps == 100


def test_walkers_cost_what_the_formulas_say(ropes):
    """A walker that was never told how to come back to the rope, and one that was."""

    @jax.jit
    def play(key, is_told):
        def act(place, memory, key):
            key_error, key_side = jax.random.split(key)
            side = 2 * jax.random.bernoulli(key_side, shape=place.shape)
            errs = jax.random.bernoulli(key_error, 0.02, place.shape)
            off_the_rope = jnp.where(is_told & ~errs, 2 - place, 1)
            return jnp.where(place == 1, jnp.where(errs, side, 1), off_the_rope), memory

        return evaluate(ropes, BoundPolicy(act), key, 2000)

    for is_told, expected in ((False, cloning_cost(0.02, 100)), (True, dagger_cost(0.02, 100))):
        returns, lengths = jax.device_get(play(jax.random.key(1), is_told))
        assert (lengths == 100).all()
        four_errors = 4 * returns.std() / np.sqrt(2000)
        assert four_errors < 3
        np.testing.assert_allclose(-returns.mean(), expected, rtol=0, atol=four_errors)


def test_the_heuristic_stays_on_the_rope_and_comes_back_to_it(ropes):
    heuristic = Heuristic()
    state = heuristic.init(jax.random.key(0), ropes.spec)
    action, memory = heuristic.act(state, jnp.arange(3), (), jax.random.key(0), False)
    assert memory == ()
    for place, of_expert in enumerate(action):
        next_place, result = Tightrope().step(jnp.int32(place), of_expert, jax.random.key(0))
        assert next_place == 1 and result.reward == 0


def test_a_picture_shows_the_walker_and_where_it_was():
    env = TightropeEnv("rgb_array")
    env.reset(seed=0)
    for action in [1] * 20 + [0] + [1] * 20 + [2] + [1] * 20:
        env.step(action)
    picture = env.render()
    assert picture.dtype == np.uint8 and picture.shape == empty_net().pixels.shape

    def color_at(*position):
        return tuple(picture[*np.round(empty_net().place(position)).astype(int)])

    assert color_at(0.62, 0) == POINT
    assert color_at(0.1, 0) == SUCCESS and color_at(0.3, SIDE) == FAILURE
    assert color_at(0.3, 0) not in (SUCCESS, FAILURE)
    env.step(2)
    assert not np.array_equal(env.render(), picture)
    for _ in range(100):
        env.step(1)
    picture = env.render()
    assert color_at(1, -SIDE) == FAILURE and TightropeEnv().render() is None
