"""Processes as arrays: what is refused, Gymnasium's tables, beliefs by enumeration, and the
textbook's problems."""

import itertools
from functools import partial

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.errors import InvalidInput
from etude.tabular import chains, evaluation
from etude.tabular.dynamic_programming import value_iteration
from etude.tabular.mdp import (
    belief_update,
    from_gymnasium,
    make_continuing,
    make_mdp,
    make_pomdp,
    observe,
    random_mdp,
)
from etude.tabular.problems import gambler, random_walk

LAW = np.array([[[0.5, 0.5], [1.0, 0.0]], [[0.0, 1.0], [0.25, 0.75]]])  # two states, two actions
NAN = np.where(np.arange(8).reshape(2, 2, 2) == 5, np.nan, 0)


value = jax.jit(evaluation.policy_value)
drawn = jax.jit(partial(random_mdp, num_states=5, num_actions=3, termination=0.3))


def changed(place, value):
    law = LAW.copy()
    law[place] = value
    return law


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            (changed((1, 0, 1), 0.9), 0),
            r"transition sums to \[?0.9\]? in row \[1, 0\]; probabilities sum to 1",
        ),
        (
            (changed((0, 1), (1.5, -0.5)), 0),
            r"transition is 1.5 at \[0, 1, 0\]; a probability is between 0 and 1",
        ),
        ((changed((0, 1), (-0.5, 1.5)), 0), r"transition is -0.5 at \[0, 1, 0\]"),
        ((changed((0, 0, 0), np.nan), 0), r"transition is nan at \[0, 0, 0\]"),
        ((LAW[0], 0), r"transition has shape \(2, 2\); it must be \[state, action, state\]"),
        ((LAW[:, :, :1], 0), r"transition has shape \(2, 2, 1\)"),
        ((LAW[:0], 0), r"transition has shape \(0, 2, 2\)"),
        (([[[1.0], [1.0, 0.0]]], 0), "transition is no array of numbers"),
        (
            (LAW, NAN),
            r"reward is nan at \[state, action, next state\] \[1, 0, 1\]; it must be finite",
        ),
        ((LAW, np.inf), r"reward is inf at \[state, action, next state\] \[0, 0, 0\]"),
        (
            (LAW, np.zeros(3)),
            r"reward has shape \(3,\), which does not broadcast to transition's \(2, 2, 2\)",
        ),
        ((LAW, "much"), "reward is no array of numbers"),
        ((LAW, 0, 1.25), r"termination is 1.25 at \[0, 0, 0\]; a probability"),
        (
            (LAW, 0, np.zeros((3, 1, 1))),
            r"termination has shape \(3, 1, 1\), which does not broadcast",
        ),
        ((LAW, 0, 0, [0.5, 0.6]), "initial sums to .*1.1.*; probabilities sum to 1"),
        (
            (LAW, 0, 0, [1.0]),
            r"initial has shape \(1,\); it must be \(2,\), one probability a state",
        ),
    ],
)
def test_arrays_that_are_no_process_are_refused_by_name(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        make_mdp(*arguments)


@pytest.mark.parametrize(
    "emission, message",
    [
        (np.eye(3), r"emission has shape \(3, 3\); it must be \[state, observation\] of 2 states"),
        (np.ones(2), r"emission has shape \(2,\)"),
        ([[1, 0], [0.5, 0.4]], r"emission sums to .*0.9.* in row \[1\]"),
    ],
)
def test_emissions_that_are_none_are_refused_by_name(emission, message):
    with pytest.raises(InvalidInput, match=message):
        make_pomdp(make_mdp(LAW, 0), emission)


def test_what_is_given_for_less_is_given_for_all():
    process = make_mdp(LAW, [[[1.0], [2.0]], [[3.0], [4.0]]], [0, 1])
    assert (process.num_states, process.num_actions) == (2, 2)
    np.testing.assert_array_equal(process.reward[1], [[3, 3], [4, 4]])
    np.testing.assert_array_equal(process.termination[..., 1], np.ones((2, 2)))
    np.testing.assert_array_equal(process.initial, [0.5, 0.5])
    np.testing.assert_allclose(process.continues.sum(-1), LAW[..., 0])
    np.testing.assert_allclose(process.expected_reward, [[1, 2], [3, 4]])


def test_rows_that_sum_to_one_in_float32_are_taken():
    thirds = np.full((3, 1, 3), 1 / 3, np.float32)
    np.testing.assert_allclose(make_mdp(thirds, 0).transition.sum(-1), 1, rtol=1e-6)


@pytest.mark.slow
def aligned(shape, value):
    """A float64 array that begins at a multiple of 64 bytes, so that JAX can share its memory."""
    size = int(np.prod(shape))
    memory = np.empty(size + 8)
    first = -memory.ctypes.data % 64 // 8
    array = memory[first : first + size].reshape(shape)
    array[:] = value
    return array


def test_a_process_is_its_own_whatever_becomes_of_the_arrays():
    transition, reward = aligned((16, 2, 16), 1 / 16), aligned((16, 2, 16), 1.0)
    initial, emission = aligned((16,), 1 / 16), aligned((16, 4), 0.25)
    with jax.enable_x64(True):
        process = make_pomdp(make_mdp(transition, reward, 0.0, initial), emission)
        before = jax.tree.map(np.array, process)
        for array in (transition, reward, initial, emission):
            array[:] = 7
        jax.tree.map(np.testing.assert_array_equal, process, before)


def test_a_process_without_end_starts_again():
    process = jax.tree.map(np.asarray, drawn(jax.random.key(0)))
    endless = make_continuing(process)
    np.testing.assert_allclose(
        endless.transition, 0.7 * process.transition + 0.3 * process.initial, rtol=1e-5
    )
    np.testing.assert_allclose(
        endless.expected_reward, process.expected_reward, rtol=1e-4, atol=1e-6
    )
    assert not endless.termination.any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, options",
    [
        ("FrozenLake-v1", {}),
        ("FrozenLake8x8-v1", {}),
        ("Taxi-v4", {}),
        ("Taxi-v4", {"is_rainy": True}),
        ("CliffWalking-v1", {}),
        ("CliffWalkingSlippery-v1", {}),
        ("FrozenLake-v1", {"desc": ["SFH", "FSG"], "success_rate": 0.7}),
    ],
    ids=str,
)
def test_a_table_is_the_law_that_gymnasium_draws_from(name, options):
    """Every way of every state and action, summed up by itself; several may lead to one state."""
    process, env = from_gymnasium(name, **options), gymnasium.make(name, **options).unwrapped
    transition, reward, going_on = np.zeros((3, *process.transition.shape))
    for state, action in itertools.product(range(process.num_states), range(process.num_actions)):
        for probability, after, paid, ends in env.P[state][action]:
            transition[state, action, after] += probability
            reward[state, action, after] += probability * paid
            going_on[state, action, after] += probability * (not ends)
    np.testing.assert_allclose(process.transition, transition, atol=1e-6)
    np.testing.assert_allclose(process.transition * process.reward, reward, atol=1e-5)
    np.testing.assert_allclose(process.continues, going_on, atol=1e-6)
    np.testing.assert_allclose(process.initial, env.initial_state_distrib, atol=1e-7)


def test_an_environment_that_is_made_is_taken_as_it_is():
    env = gymnasium.make("FrozenLake-v1", desc=["SG"], is_slippery=False)
    process = from_gymnasium(env)
    assert (
        process.num_states == 2
        and process.reward[0, 2, 1] == 1
        and process.termination[0, 2, 1] == 1
    )
    env.reset(seed=0)  # and is left open
    assert env.step(2)[:3] == (1, 1, True)


@pytest.mark.parametrize(
    "environment, options, message",
    [
        (
            "CartPole-v1",
            {},
            "CartPole.* has no table of its transitions; FrozenLake-v1, Taxi-v4 and "
            "CliffWalking-v1 have one",
        ),
        ("Blackjack-v1", {}, "Blackjack.* has no table"),
        ("FrozenLake-v99", {}, "environment 'FrozenLake-v99' cannot be made: .*v99"),
        (
            "FrozenLake-v1",
            {"icy": 1},
            r"environment 'FrozenLake-v1' cannot be made with options {'icy': 1}: .*icy",
        ),
        (
            "Taxi-v4",
            {"fickle_passenger": True},
            "a fickle passenger's change of mind is not in Taxi's table",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_an_environment_without_a_table_is_refused(environment, options, message):
    with pytest.raises(InvalidInput, match=message):
        from_gymnasium(environment, **options)


def test_options_for_an_environment_that_is_made_are_refused():
    with pytest.raises(
        InvalidInput, match="options {'is_slippery': False} are for an environment's id"
    ):
        from_gymnasium(gymnasium.make("FrozenLake-v1"), is_slippery=False)


@pytest.mark.parametrize("end", [0.0, 0.4])
def test_a_belief_is_bayes_rule_over_every_path(end):
    """p(s₀, o₀, s₁, o₁, s₂, o₂) enumerated; play went on where it might have ended, more often from
    some states than others."""
    rng = np.random.default_rng(0)
    transition, emission = rng.dirichlet(np.ones(3), (3, 2)), rng.dirichlet(np.ones(2), 3)
    terminates = end * rng.random((3, 2, 3))
    initial = np.array([0.6, 0.3, 0.1])
    process = make_pomdp(make_mdp(transition, 0, terminates, initial), emission)
    actions, seen = (1, 0), (0, 1, 1)
    joint = np.zeros(3)
    for path in itertools.product(range(3), repeat=3):
        p = initial[path[0]] * emission[path[0], seen[0]]
        for action, before, after, observation in zip(
            actions, path, path[1:], seen[1:], strict=False
        ):
            p *= (
                transition[before, action, after]
                * (1 - terminates[before, action, after])
                * emission[after, observation]
            )
        joint[path[-1]] += p
    update = jax.jit(belief_update)
    belief = observe(process, process.mdp.initial, seen[0])
    for action, observation in zip(actions, seen[1:], strict=True):
        belief = update(process, belief, action, observation)
    np.testing.assert_allclose(belief, joint / joint.sum(), rtol=1e-5)


def test_what_could_not_be_seen_leaves_no_belief():
    process = make_pomdp(make_mdp(LAW, 0), [[1, 0], [1, 0]])
    np.testing.assert_array_equal(belief_update(process, jnp.array([0.5, 0.5]), 0, 1), [0, 0])
    np.testing.assert_array_equal(observe(process, jnp.array([0.5, 0.5]), 0), [0.5, 0.5])


@pytest.mark.slow
def test_the_gamblers_chances():
    """Bold play: .16, .4 and .64 with capital 25, 50 and 75 (Sutton & Barto, 2018, figure 4.3), all
    of it for a fair coin."""
    process = gambler()
    worth, stakes = jax.jit(value_iteration)(process, 1.0)
    worth = np.asarray(worth)
    np.testing.assert_allclose(worth[[25, 50, 75]], [0.16, 0.4, 0.64], rtol=1e-5)
    assert stakes[50] == 49 and worth[0] == worth[100] == 0
    np.testing.assert_allclose(
        jax.jit(value_iteration)(gambler(20, 0.5), 1.0)[0], np.arange(21) % 20 / 20, rtol=1e-4
    )


@pytest.mark.slow
def test_a_timid_gambler_is_ruined_as_a_random_walk_is():
    process = jax.tree.map(np.asarray, gambler(7, 0.3))
    assert process.num_actions == 3
    timid = np.tile([1.0, 0, 0], (8, 1))
    walk = np.einsum("sa,sat->st", timid, process.transition)
    ruin = np.asarray(jax.jit(chains.absorption)(walk)[0])
    np.testing.assert_allclose(value(process, timid, 1.0)[1:7], ruin[1:7, 7], rtol=1e-4)
    stakes = process.transition[3]  # of 3, with 4 to go
    np.testing.assert_allclose(stakes[1, 5], 0.3)
    np.testing.assert_allclose(stakes[2, 0], 0.7)
    # no more than is missing
    np.testing.assert_allclose(process.transition[5, 2], process.transition[5, 1])


def test_the_random_walks_values():
    np.testing.assert_allclose(
        value(random_walk(), np.full((5, 2), 0.5), 1.0), np.arange(1, 6) / 6, rtol=1e-5
    )
    long = random_walk(19, left=-1.0)
    np.testing.assert_allclose(
        value(long, np.full((19, 2), 0.5), 1.0), np.arange(-9, 10) / 10, atol=1e-5
    )
    np.testing.assert_array_equal(np.flatnonzero(long.initial), [9])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: gambler(1), "goal is 1 and heads 0.4; a goal is at least 2"),
        (lambda: gambler(10, 1.5), "goal is 10 and heads 1.5"),
        (lambda: random_walk(4), "length is 4; it must be odd"),
        (lambda: random_walk(-1), "length is -1"),
    ],
)
def test_problems_that_are_none_are_refused(make, message):
    with pytest.raises(InvalidInput, match=message):
        make()


def test_a_random_process_is_one():
    """It passes the check that arrays from outside have to pass."""
    process = jax.tree.map(np.asarray, drawn(jax.random.key(1)))
    again = make_mdp(process.transition, process.reward, process.termination, process.initial)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), process, again)
    assert process.transition.shape == (5, 3, 5) and (process.termination == np.float32(0.3)).all()
