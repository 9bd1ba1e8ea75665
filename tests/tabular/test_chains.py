"""Markov chains against eigenvectors, simulation of every path, and the gambler's ruin."""

import itertools

import jax
import numpy as np
import pytest
import scipy.linalg

from etude.tabular import chains
from etude.tabular.chains import absorbing

absorption, stationary = jax.jit(chains.absorption), jax.jit(chains.stationary)
propagate = jax.jit(chains.propagate, static_argnames="steps")


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def random_chain(seed, n=5):
    return np.random.default_rng(seed).dirichlet(np.ones(n), n)


def walk(goal, up):
    """A walk between the ends 0 and `goal`, where it stays."""
    transition = np.zeros((goal + 1, goal + 1))
    transition[0, 0] = transition[goal, goal] = 1
    for state in range(1, goal):
        transition[state, state + 1], transition[state, state - 1] = up, 1 - up
    return transition


def test_a_distribution_goes_where_every_path_goes():
    transition, start = random_chain(0, 3), np.array([0.2, 0.5, 0.3])
    expected = np.zeros(3)
    for path in itertools.product(range(3), repeat=5):
        expected[path[-1]] += start[path[0]] * np.prod(
            [transition[a, b] for a, b in itertools.pairwise(path)]
        )
    np.testing.assert_allclose(propagate(transition, start, 4), expected, rtol=1e-12)
    np.testing.assert_allclose(propagate(transition, start), start @ transition, rtol=1e-12)
    np.testing.assert_array_equal(propagate(transition, start, 0), start)


@pytest.mark.parametrize("seed", range(3))
def test_the_stationary_distribution_is_the_left_eigenvector_of_one(seed):
    transition = random_chain(seed)
    values, left = scipy.linalg.eig(transition, left=True, right=False)
    vector = left[:, np.argmin(abs(values - 1))].real
    np.testing.assert_allclose(stationary(transition), vector / vector.sum(), rtol=1e-9)
    np.testing.assert_allclose(
        propagate(transition, np.eye(5)[0], 500), vector / vector.sum(), rtol=1e-9
    )


def test_a_chain_that_goes_round_has_a_stationary_distribution_though_it_never_settles():
    np.testing.assert_allclose(stationary(np.roll(np.eye(3), 1, 1)), np.full(3, 1 / 3), rtol=1e-9)


def test_of_many_stationary_distributions_one_is_given():
    np.testing.assert_allclose(
        stationary(np.array([[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0]])), [0.5, 0.5, 0], atol=1e-9
    )


def test_no_probability_is_below_zero():
    """States that are left for ever, to the last digit: what is built on this takes roots."""
    for seed in range(5):
        transition = random_chain(seed)
        transition[:, :2] = 0
        assert (np.asarray(stationary(transition / transition.sum(1, keepdims=True))) >= 0).all()


@pytest.mark.slow
def test_only_states_that_are_never_left_absorb():
    transition = np.array([[1, 0, 0, 0], [0.5, 0, 0.5, 0], [0, 0, 1 - 1e-9, 1e-9], [0, 0, 1, 0]])
    np.testing.assert_array_equal(absorbing(transition), [True, False, False, False])
    inexact = np.array([[1 - 1e-16, 0], [1, 0]])  # the row's own rounding is no way out
    np.testing.assert_array_equal(absorbing(inexact), [True, False])


@pytest.mark.parametrize("up", [0.3, 0.5, 0.6])
def test_the_gamblers_ruin(up):
    """Feller's closed form for the probability of either end and for how long the play lasts."""
    goal, k = 7, np.arange(8)
    ratio = (1 - up) / up
    won = k / goal if up == 0.5 else (1 - ratio**k) / (1 - ratio**goal)
    lasts = k * (goal - k) if up == 0.5 else (k - goal * won) / (1 - 2 * up)
    ends, steps = absorption(walk(goal, up))
    np.testing.assert_allclose(ends[:, goal], won, atol=1e-12)
    np.testing.assert_allclose(ends.sum(1), 1, rtol=1e-12)
    np.testing.assert_array_equal(ends[:, 1:goal], np.zeros((8, 6)))
    np.testing.assert_allclose(steps, lasts, atol=1e-10)


def test_absorption_is_where_propagation_ends():
    transition = random_chain(3, 6)
    transition[[1, 4]] = np.eye(6)[[1, 4]]
    ends, _ = absorption(transition)
    np.testing.assert_allclose(ends, propagate(transition, np.eye(6), 2000), atol=1e-10)
