"""Costs and bounds of cloned policies: against sums over all paths and exact state marginals."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.environments.tabular import mdp_from_environment
from etude.environments.tasks.tightrope import Tightrope
from etude.tabular.compounding_error import (
    cloning_cost,
    cloning_cost_bound,
    dagger_cost,
    distribution_shift_bound,
    mistake_probability,
)
from etude.tabular.evaluation import expected_return, state_marginals
from etude.tabular.mdp import make_mdp

AHEAD, LEFT, ROPE, RIGHT = 1, 0, 1, 2
marginals = jax.jit(state_marginals, static_argnames="horizon")
cost_of = jax.jit(cloning_cost, static_argnums=1)
return_of = jax.jit(expected_return, static_argnames="horizon")


@pytest.fixture(scope="module")
def tightrope():
    return mdp_from_environment(Tightrope(), jax.random.key(0))


def walker(error_rate, recovers):
    """A policy of the tightrope [place, action]: it errs to both sides alike.

    Off the rope it goes ahead for ever, or it `recovers` but for as many errors.
    """
    policy = np.zeros((3, 3))
    policy[ROPE] = error_rate / 2, 1 - error_rate, error_rate / 2
    policy[[LEFT, RIGHT], AHEAD] = error_rate if recovers else 1
    if recovers:
        policy[LEFT, 2] = policy[RIGHT, 0] = 1 - error_rate
    return policy


def test_the_probability_of_an_error_is_that_of_all_paths():
    error_rate, times = 0.2, np.arange(6)
    expected = [
        sum(
            np.prod(np.where(path, error_rate, 1 - error_rate))
            for path in itertools.product([False, True], repeat=time)
            if any(path)
        )
        for time in times
    ]
    np.testing.assert_allclose(mistake_probability(error_rate, times), expected, atol=1e-6)
    # where 1 - (1 - ε)ᵗ has no digits left in float32
    np.testing.assert_allclose(mistake_probability(1e-8, 3), 3e-8, rtol=1e-6)
    np.testing.assert_array_equal(mistake_probability(jnp.array([0.0, 1.0]), 0), [0, 0])
    np.testing.assert_array_equal(mistake_probability(jnp.array([0.0, 1.0]), 9), [0, 1])


@pytest.mark.parametrize("error_rate", [0.001, 0.01, 0.3, 1.0])
def test_the_cost_is_that_of_the_exact_process(tightrope, error_rate):
    """By dynamic programming on the process of the environment itself."""
    for horizon in (10, 1000):
        cloned = -return_of(tightrope, walker(error_rate, False), horizon=horizon)
        np.testing.assert_allclose(cost_of(error_rate, horizon), cloned, rtol=2e-4)
        recovering = -return_of(tightrope, walker(error_rate, True), horizon=horizon)
        np.testing.assert_allclose(dagger_cost(error_rate, horizon), recovering, rtol=2e-4)


def test_figures_of_the_tightrope():
    """By fractions: T - (1 - ε) (1 - (1 - ε)ᵀ) / ε, which is the sum of a geometric series."""
    for horizon, cost in ((10, 0.534), (100, 37.24), (1000, 901.0)):
        closed_form = horizon - 0.99 * (1 - 0.99**horizon) / 0.01
        computed = cost_of(0.01, horizon)
        np.testing.assert_allclose(computed, cost, rtol=1e-3)
        np.testing.assert_allclose(computed, closed_form, rtol=1e-5)
    costs = np.log([[f(0.001, horizon) for f in (cost_of, dagger_cost)] for horizon in (10, 100)])
    np.testing.assert_allclose(np.diff(costs, axis=0)[0] / np.log(10), [1.95, 1], atol=2e-3)
    np.testing.assert_allclose(
        cost_of(jnp.array([[0.0, 0.5, 1.0]]), 2), [[0, 0.5 + 0.75, 2]], rtol=1e-6
    )


def expert_and_learner(seed, error_rate, states=6, actions=3):
    """A random process with costs in [0, 1], an expert and a policy that errs with ε everywhere."""
    rng = np.random.default_rng(seed)
    cost = rng.random((states, actions, states))
    transition = rng.dirichlet(np.full(states, 0.2), (states, actions))
    process = make_mdp(transition, -cost, 0.0, rng.dirichlet(np.ones(states)))
    expert = np.eye(actions)[rng.integers(actions, size=states)]
    mistakes = (1 - expert) * rng.random(expert.shape)
    mistakes /= mistakes.sum(-1, keepdims=True)
    return process, expert, (1 - error_rate) * expert + error_rate * mistakes


@pytest.mark.parametrize("error_rate", [0.01, 0.2])
def test_the_bounds_hold_in_random_processes(error_rate):
    horizon, time = 20, np.arange(20)
    bound = np.asarray(distribution_shift_bound(error_rate, time))
    assert (bound <= 2 * error_rate * time + 1e-6).all()
    for seed in range(10):
        process, expert, learner = expert_and_learner(seed, error_rate)
        of_expert, of_learner = (marginals(process, p, horizon=horizon) for p in (expert, learner))
        assert (np.abs(of_learner - of_expert).sum(-1) <= bound + 1e-5).all()
        cost, least = (-return_of(process, p, horizon=horizon) for p in (learner, expert))
        assert abs(cost - least) <= cost_of(error_rate, horizon) + 1e-4
        # of the errors themselves, by a policy that always errs off the expert's states
        differs = 1 - (learner * expert).sum(-1)
        assert (of_learner @ differs).sum() <= cloning_cost_bound(error_rate, horizon)


@pytest.mark.parametrize("error_rate", [0.01, 0.2])
def test_the_bounds_are_reached_on_the_tightrope(tightrope, error_rate):
    expert = walker(0.0, True)
    on_rope, walked = (
        marginals(tightrope, policy, horizon=50) for policy in (expert, walker(error_rate, False))
    )
    np.testing.assert_allclose(
        np.abs(walked - on_rope).sum(-1),
        distribution_shift_bound(error_rate, np.arange(50)),
        atol=1e-5,
    )
    # a walker off the rope always errs, so its errors are its cost
    errors = (np.asarray(walked) @ [1, error_rate, 1]).sum()
    np.testing.assert_allclose(errors, cost_of(error_rate, 50), rtol=1e-4)
    assert errors <= cloning_cost_bound(error_rate, 50)
    assert errors <= error_rate * 50 * 51 / 2
