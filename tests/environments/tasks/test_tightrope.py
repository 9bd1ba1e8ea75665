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
from etude.rollout import BoundPolicy, bind_policy, evaluate
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


def erring(error_rate, off_the_rope):
    """A walker that goes ahead on the rope, errs so often, and does this off it."""

    def act(place, memory, key):
        key_error, key_side = jax.random.split(key)
        side = 2 * jax.random.bernoulli(key_side, shape=place.shape)
        errs = jax.random.bernoulli(key_error, error_rate, place.shape)
        return jnp.where(place == 1, jnp.where(errs, side, 1), off_the_rope(place, errs)), memory

    return BoundPolicy(act)


def test_walkers_cost_what_the_formulas_say(ropes):
    """A walker that was never told how to come back, and one that was."""
    costs = {}
    for name, off_the_rope in (
        ("cloned", lambda place, errs: jnp.ones_like(place)),
        ("told", lambda place, errs: jnp.where(errs, 1, 2 - place)),
    ):
        policy = erring(0.02, off_the_rope)
        run = jax.jit(lambda key, policy=policy: evaluate(ropes, policy, key, 2000))
        returns, lengths = run(jax.random.key(1))
        assert (lengths == 100).all()
        costs[name] = -returns.mean(), 4 * float(returns.std()) / np.sqrt(2000)
    for name, expected in (("cloned", cloning_cost(0.02, 100)), ("told", dagger_cost(0.02, 100))):
        mean, four_errors = costs[name]
        assert (
            mean == pytest.approx(float(expected), abs=four_errors) and four_errors < 0.1 * mean + 1
        )


def test_the_heuristic_stays_on_the_rope_and_comes_back_to_it(ropes):
    heuristic = Heuristic()
    state = heuristic.init(jax.random.key(0), ropes.spec)
    policy = bind_policy(heuristic, state, ropes)
    returns, _ = jax.jit(lambda key: evaluate(ropes, policy, key, 2000))(jax.random.key(0))
    assert not returns.any()
    action, memory = heuristic.act(state, jnp.arange(3), (), jax.random.key(0), False)
    assert memory == ()
    for place, back in enumerate(action):
        next_place, result = Tightrope().step(jnp.int32(place), back, jax.random.key(0))
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
