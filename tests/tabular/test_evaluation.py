"""Exact values against sums over every trajectory, long sums, and one another."""

import itertools

import jax
import numpy as np
import pytest

from etude.tabular import chains, evaluation
from etude.tabular.mdp import make_continuing, make_mdp

DISCOUNT = 0.9
value, objective = (
    jax.jit(evaluation.policy_value),
    jax.jit(evaluation.expected_return, static_argnames="horizon"),
)
by_iteration = jax.jit(evaluation.value_by_iteration, static_argnames="iterations")
stationary = jax.jit(chains.stationary)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def drawn(seed, states=5, actions=3, end=True):
    """(process, policy), both random; with `end`, some steps are likelier to be the last than
    others."""
    rng = np.random.default_rng(seed)
    shape = states, actions, states
    terminates = rng.random(shape) / 2 if end else 0
    process = make_mdp(
        rng.dirichlet(np.ones(states), shape[:2]),
        rng.normal(size=shape),
        terminates,
        rng.dirichlet(np.ones(states)),
    )
    return jax.tree.map(np.asarray, process), rng.dirichlet(np.ones(actions), states)


def slow_value(process, policy, discount, steps):
    """V of so many steps, by loops over the definition."""
    p, r, ends = process.transition, process.reward, process.termination
    states, actions, _ = p.shape
    v = np.zeros(states)
    for _ in range(steps):
        v = np.array(
            [
                sum(
                    policy[s, a] * p[s, a, t] * (r[s, a, t] + discount * (1 - ends[s, a, t]) * v[t])
                    for a in range(actions)
                    for t in range(states)
                )
                for s in range(states)
            ]
        )
    return v


@pytest.mark.parametrize("end", [True, False])
def test_the_linear_solve_is_the_end_of_iteration(end):
    process, policy = drawn(0, end=end)
    solved = value(process, policy, DISCOUNT)
    np.testing.assert_allclose(by_iteration(process, policy, DISCOUNT, 400), solved, rtol=1e-10)
    np.testing.assert_allclose(
        slow_value(process, policy, DISCOUNT, 300), solved, rtol=1e-10, atol=1e-10
    )
    np.testing.assert_allclose(
        by_iteration(process, policy, DISCOUNT, 7),
        slow_value(process, policy, DISCOUNT, 7),
        rtol=1e-10,
    )
    np.testing.assert_allclose(
        evaluation.expectation_backup(process, policy, solved, DISCOUNT), solved, rtol=1e-10
    )


def test_values_of_actions_of_states_and_advantages_belong_together():
    process, policy = drawn(1)
    v = value(process, policy, DISCOUNT)
    q = evaluation.action_value(process, v, DISCOUNT)
    v, q = np.asarray(v), np.asarray(q)
    first = np.einsum("sat,sat->sa", process.transition, process.reward)
    follows = np.einsum("sat,sat,t->sa", process.transition, 1 - process.termination, v)
    np.testing.assert_allclose(q, first + DISCOUNT * follows, rtol=1e-10)
    np.testing.assert_allclose((policy * q).sum(-1), v, rtol=1e-10)  # V = E[Q]
    np.testing.assert_allclose(
        evaluation.expectation_q_backup(process, policy, q, DISCOUNT), q, rtol=1e-10
    )
    advantage = evaluation.advantage(process, policy, DISCOUNT)
    np.testing.assert_allclose(advantage, q - v[:, None], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose((policy * advantage).sum(-1), 0, atol=1e-12)


def test_acting_better_than_average_is_an_improvement():
    process, policy = drawn(2)
    better = np.eye(3)[np.asarray(evaluation.advantage(process, policy, DISCOUNT)).argmax(-1)]
    gain = value(process, better, DISCOUNT) - value(process, policy, DISCOUNT)
    assert (gain > 0.01).all()


@pytest.mark.parametrize("end", [True, False])
def test_the_objective_is_the_expectation_over_every_trajectory(end):
    """Σ over trajectories up to step t of p(τ) γᵗ r(last step): each step counts where play got so
    far."""
    process, policy = drawn(3, 3, 2, end)
    total, horizon = 0.0, 3
    marginals = np.asarray(evaluation.state_marginals(process, policy, horizon))
    probability = jax.jit(jax.vmap(evaluation.trajectory_probability, (None, None, 0, 0)))
    for steps in range(1, horizon + 1):
        paths = [
            (s, a)
            for s in itertools.product(range(3), repeat=steps + 1)
            for a in itertools.product(range(2), repeat=steps)
        ]
        states, actions = (np.array(x) for x in zip(*paths, strict=True))
        p = np.asarray(probability(process, policy, states, actions))
        total += (
            p
            * DISCOUNT ** (steps - 1)
            * process.reward[states[:, -2], actions[:, -1], states[:, -1]]
        ).sum()
        so_far = marginals[steps - 1].sum()
        np.testing.assert_allclose(p.sum(), so_far, rtol=1e-10)
        assert end == (so_far < 0.99) or steps == 1
    np.testing.assert_allclose(objective(process, policy, DISCOUNT, horizon), total, rtol=1e-10)


def test_the_objective_without_a_horizon_is_that_of_a_very_long_one():
    process, policy = drawn(4)
    for discount in (DISCOUNT, 1.0):  # play ends, so both have a value
        np.testing.assert_allclose(
            objective(process, policy, discount),
            process.initial @ slow_value(process, policy, discount, 150),
            rtol=1e-9,
        )


def test_a_trajectory_by_hand():
    process = make_mdp(
        [[[0.25, 0.75], [1, 0]], [[0, 1], [0.5, 0.5]]],
        0,
        [[[0.1, 0.2], [0, 0]], [[0, 0], [0, 0.3]]],
        [0.4, 0.6],
    )
    policy = np.array([[0.9, 0.1], [0.3, 0.7]])
    p = jax.jit(evaluation.trajectory_probability)(
        process, policy, np.array([0, 1, 1]), np.array([0, 1])
    )
    # only the first step had to be followed by more
    np.testing.assert_allclose(p, 0.4 * (0.9 * 0.75 * 0.8) * (0.7 * 0.5))


def test_marginals_are_the_chain_step_by_step_and_occupancy_their_discounted_sum():
    process, policy = drawn(5)
    marginals = np.asarray(evaluation.state_marginals(process, policy, 400))
    transition, reward = (np.asarray(x) for x in evaluation.state_chain(process, policy))
    np.testing.assert_allclose(
        marginals[3], process.initial @ np.linalg.matrix_power(transition, 3), rtol=1e-10
    )
    occupancy = evaluation.occupancy(process, policy, DISCOUNT)
    np.testing.assert_allclose(DISCOUNT ** np.arange(400) @ marginals, occupancy, rtol=1e-10)
    np.testing.assert_allclose(occupancy @ reward, objective(process, policy, DISCOUNT), rtol=1e-10)


def test_states_and_choices_are_a_chain_too():
    process, policy = drawn(6, end=False)
    pairs = np.asarray(evaluation.state_action_chain(process, policy))
    states, _ = evaluation.state_chain(process, policy)
    np.testing.assert_allclose(pairs.sum((2, 3)), 1, rtol=1e-12)
    together = stationary(pairs.reshape(15, 15)).reshape(5, 3)
    np.testing.assert_allclose(
        together, np.asarray(stationary(states))[:, None] * policy, rtol=1e-9
    )


@pytest.mark.slow
def test_the_average_reward_is_that_of_a_very_long_play():
    """Whatever the first state; where an episode ends the next begins."""
    process, policy = drawn(7)
    endless = make_continuing(process)
    average = jax.jit(evaluation.average_reward)(process, policy)
    np.testing.assert_allclose(
        by_iteration(endless, policy, 1.0, 20_000) / 20_000, np.full(5, average), atol=1e-3
    )
    np.testing.assert_allclose(
        value(endless, policy, 1 - 1e-6) * 1e-6, np.full(5, average), atol=1e-5
    )


def test_the_uniform_policy_takes_every_action_alike():
    np.testing.assert_array_equal(
        evaluation.uniform_policy(drawn(9, 2, 4)[0]), np.full((2, 4), 0.25)
    )


@pytest.mark.slow
def test_values_have_derivatives_and_go_through_vmap():
    """The policy gradient is a derivative of J: against differences."""
    process, policy = drawn(8)
    logits = np.log(policy)
    j = jax.jit(
        lambda logits: evaluation.expected_return(process, jax.nn.softmax(logits), DISCOUNT)
    )
    slope = jax.jit(jax.grad(j))(logits)
    for place in ((0, 1), (4, 2)):
        step = np.zeros((5, 3))
        step[place] = 1e-6
        np.testing.assert_allclose(
            slope[place], (j(logits + step) - j(logits - step)) / 2e-6, rtol=1e-5, atol=1e-9
        )
    swept = jax.jit(jax.vmap(evaluation.policy_value, (None, None, 0)))(
        process, policy, np.array([0.5, DISCOUNT])
    )
    np.testing.assert_allclose(swept[1], value(process, policy, DISCOUNT), rtol=1e-10)
