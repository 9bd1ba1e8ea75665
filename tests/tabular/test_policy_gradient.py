"""The policy gradient and a trust region, exactly: identities and bounds on random processes,
closed forms on two small ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats

from etude.tabular import evaluation
from etude.tabular import policy_gradient as pg
from etude.tabular.mdp import make_mdp, random_mdp
from etude.tabular.problems import short_corridor, stay_or_quit

STATES, ACTIONS, DISCOUNT, PAIRS, HORIZON = 4, 3, 0.9, 400, 30


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def drawn(key):
    """A process, of which half end, and the logits of two policies, from all but alike to all but
    disjoint."""
    key_process, key_end, key_logits, key_change, key_size = jax.random.split(key, 5)
    process = random_mdp(key_process, STATES, ACTIONS, 0.2 * jax.random.bernoulli(key_end))
    logits, change = (jax.random.normal(key, (STATES, ACTIONS)) for key in (key_logits, key_change))
    return (
        process,
        logits,
        logits + 10 ** jax.random.uniform(key_size, minval=-3, maxval=1) * change,
    )


def measured(key):
    process, logits, other = drawn(key)
    old, new = jax.nn.softmax(logits), jax.nn.softmax(other)
    arguments = process, new, old, DISCOUNT
    ratio = new / old
    weighted = jnp.einsum(
        "s,sa,sa,sa->",
        evaluation.occupancy(process, old, DISCOUNT),
        old,
        ratio,
        evaluation.advantage(process, old, DISCOUNT),
    )
    marginals = [evaluation.state_marginals(process, policy, HORIZON) for policy in (new, old)]
    return {
        "process": process,
        "logits": logits,
        "old": old,
        "new": new,
        "gain": evaluation.expected_return(process, new, DISCOUNT)
        - evaluation.expected_return(process, old, DISCOUNT),
        "difference": pg.performance_difference(*arguments),
        "surrogate": pg.surrogate(*arguments),
        "weighted": weighted,
        "gap": pg.surrogate_gap(*arguments),
        "variation": pg.variation_bound(*arguments),
        "reward": pg.reward_bound(*arguments),
        "trust region": pg.trust_region_bound(*arguments),
        "drift": abs(marginals[0] - marginals[1]).sum(-1),
        "drift bound": pg.drift_bound(new, old, HORIZON),
        "exact": pg.exact_gradient(process, logits, DISCOUNT),
        "theorem": pg.policy_gradient_theorem(process, logits, DISCOUNT),
        "slope": jax.grad(lambda x: pg.surrogate(process, jax.nn.softmax(x), old, DISCOUNT))(
            logits
        ),
    }


@pytest.fixture(scope="module")
def pairs():
    """Every measure of 400 random pairs of policies, each in a random process of its own."""
    with jax.enable_x64(True):
        return jax.device_get(
            jax.jit(jax.vmap(measured))(jax.random.split(jax.random.key(0), PAIRS))
        )


def test_the_policy_gradient_theorem_is_the_gradient_of_the_objective(pairs):
    np.testing.assert_allclose(pairs["theorem"], pairs["exact"], rtol=1e-9, atol=1e-12)
    # all logits of a state may move together
    np.testing.assert_allclose(pairs["exact"].sum(-1), 0, atol=1e-12)
    assert abs(pairs["exact"]).max(1).min() > 1e-4


def test_the_gradient_is_that_of_finite_differences(pairs):
    process, logits = (jax.tree.map(lambda x: x[0], pairs[name]) for name in ("process", "logits"))

    def j(logits):
        policy = scipy.special.softmax(logits, -1)
        chain = np.einsum("sa,sat->st", policy, process.transition * (1 - process.termination))
        reward = np.einsum("sa,sat,sat->s", policy, process.transition, process.reward)
        return process.initial @ np.linalg.solve(np.eye(STATES) - DISCOUNT * chain, reward)

    slope = scipy.optimize.approx_fprime(
        logits.ravel(), lambda x: j(x.reshape(STATES, ACTIONS)), 1e-7
    )
    np.testing.assert_allclose(pairs["exact"][0].ravel(), slope, atol=1e-5)


def test_the_gain_is_the_old_advantage_of_the_new_policy(pairs):
    """J(new) - J(old) = E_new[Σ γᵗ A_old]."""
    np.testing.assert_allclose(pairs["difference"], pairs["gain"], rtol=1e-9, atol=1e-10)
    assert abs(pairs["gain"]).max() > 1


def test_the_surrogate_is_the_importance_weighted_advantage_with_the_old_states(pairs):
    np.testing.assert_allclose(pairs["surrogate"], pairs["weighted"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        pairs["gap"], pairs["gain"] - pairs["surrogate"], rtol=1e-6, atol=1e-9
    )


@pytest.mark.slow
def test_the_surrogate_agrees_to_first_order(pairs):
    """Its slope at the old policy is that of J, and the gap falls as the square of the change of
    policy."""
    np.testing.assert_allclose(pairs["slope"], pairs["exact"], rtol=1e-9, atol=1e-12)
    process, logits, change = (
        jax.tree.map(lambda x: x[1], pairs["process"]),
        pairs["logits"][1],
        pairs["logits"][2],
    )
    old = jax.nn.softmax(logits)
    gaps = jax.vmap(
        lambda size: pg.surrogate_gap(
            process, jax.nn.softmax(logits + size * change), old, DISCOUNT
        )
    )
    gaps = np.abs(jax.jit(gaps)(np.array([1e-3, 1e-2])))
    np.testing.assert_allclose(gaps[1] / gaps[0], 100, rtol=0.1)


def test_every_bound_holds(pairs):
    """And those that know less are the looser."""
    gap = abs(pairs["gap"])
    assert (gap <= pairs["variation"]).all() and (gap > 0).all()
    assert (pairs["variation"] <= pairs["reward"]).all() and (
        pairs["variation"] <= pairs["trust region"]
    ).all()
    assert (pairs["drift"] <= pairs["drift bound"] + 1e-12).all() and (
        pairs["drift"][:, 1] > 0
    ).all()


@pytest.mark.slow
def test_the_drift_bound_is_all_but_reached_on_a_tightrope():
    """One wrong choice leads away for good: the policies are 2 (1 - (1 - ε)ᵗ) apart."""
    process = make_mdp([[[1, 0], [0, 1]], [[0, 1], [0, 1]]], 0, 0, [1, 0])
    new, old = np.array([[0.999, 0.001]] * 2), np.array([[1.0, 0]] * 2)
    marginals = jax.jit(jax.vmap(lambda policy: evaluation.state_marginals(process, policy, 6)))(
        np.stack([new, old])
    )
    drift, bound = abs(marginals[0] - marginals[1]).sum(-1), pg.drift_bound(new, old, 6)
    np.testing.assert_allclose(drift, 2 * (1 - 0.999 ** np.arange(6)), rtol=1e-9)
    np.testing.assert_allclose(drift, bound, rtol=0.003)


def test_the_bound_is_the_sum_of_drifts(pairs):
    """Σₜ γᵗ 2 ε t C over so many steps that no more is left, and its ε is half the sum of absolute
    differences."""
    epsilon = abs(pairs["new"] - pairs["old"]).sum(-1).max(-1) / 2
    np.testing.assert_allclose(
        pairs["drift bound"], 2 * epsilon[:, None] * np.arange(HORIZON), rtol=1e-12
    )
    process, new, old = (
        jax.tree.map(lambda x: x[3], pairs[name]) for name in ("process", "new", "old")
    )
    advantage = np.asarray(evaluation.advantage(process, old, DISCOUNT))
    worst = abs((new * advantage).sum(-1)).max()
    t = np.arange(600)
    np.testing.assert_allclose(
        pairs["variation"][3], (DISCOUNT**t * 2 * epsilon[3] * t).sum() * worst, rtol=1e-9
    )
    kl = lambda p, q: max(scipy.stats.entropy(p, q, axis=-1))
    reward = abs((process.transition * process.reward).sum(-1)).max()
    np.testing.assert_allclose(
        pairs["reward"][3],
        (DISCOUNT**t * 2 * np.sqrt(kl(new, old) / 2) * t).sum() * 2 * reward / (1 - DISCOUNT),
        rtol=1e-9,
    )
    np.testing.assert_allclose(
        pairs["trust region"][3],
        4 * abs(advantage).max() * DISCOUNT / (1 - DISCOUNT) ** 2 * kl(old, new),
        rtol=1e-9,
    )


def test_divergences_of_policies_that_never_take_an_action():
    p, q = jnp.array([[1.0, 0], [0.5, 0.5]]), jnp.array([[0.5, 0.5], [0.25, 0.75]])
    variation, kl, turned = jax.jit(
        lambda: (pg.total_variation(p, q), pg.kl_divergence(p, q), pg.kl_divergence(q, p))
    )()
    np.testing.assert_allclose(variation, [0.5, 0.25])
    np.testing.assert_allclose(kl, [np.log(2), 0.5 * np.log(2) + 0.5 * np.log(2 / 3)])
    assert turned[0] == np.inf and turned[1] < np.inf


# The discount of the states


@jax.jit
def gradients(process, logits, discount):
    """∇J, and the policy gradient without the γᵗ."""
    return pg.exact_gradient(process, logits, discount), pg.policy_gradient_theorem(
        process, logits, discount, state_discount=1.0
    )


def test_in_a_row_of_states_the_two_conventions_differ_by_the_power_of_the_discount():
    """State t is reached at time t and no other, so leaving out γᵗ is all there is between them."""
    onward = np.tile(np.eye(STATES, k=1)[:, None], (1, ACTIONS, 1))
    onward[-1, :, -1] = 1
    time, rng = np.arange(STATES)[:, None], np.random.default_rng(0)
    process = make_mdp(
        onward,
        rng.normal(size=(STATES, ACTIONS, 1)),
        time[..., None] == STATES - 1,
        np.eye(STATES)[0],
    )
    exact, practised = gradients(process, rng.normal(size=(STATES, ACTIONS)), DISCOUNT)
    np.testing.assert_allclose(exact, DISCOUNT**time * practised, rtol=1e-12)
    assert (abs(exact) > 1e-3).all()


def test_without_the_power_it_comes_to_the_undiscounted_gradient_but_is_none(pairs):
    """As γ goes to 1 it is ∇J without discount; below, its derivatives are not symmetric, as those
    of a gradient would be."""
    i = int(np.flatnonzero(pairs["process"].termination[:, 0, 0, 0] > 0)[0])
    process, logits = jax.tree.map(lambda x: x[i], pairs["process"]), pairs["logits"][i]
    derivatives = jax.jit(
        jax.jacobian(
            lambda x, state_discount: pg.policy_gradient_theorem(process, x, 0.5, state_discount)
        )
    )
    hessian, none = (
        np.asarray(derivatives(logits, power)).reshape(logits.size, -1) for power in (0.5, 1.0)
    )
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-12)
    assert abs(none - none.T).max() > 0.01 * abs(none).max()
    np.testing.assert_allclose(
        gradients(process, logits, 1 - 1e-9)[1],
        gradients(process, logits, 1.0)[0],
        rtol=1e-6,
        atol=1e-8,
    )


# Closed forms


def worth(process):
    """(J, dJ/dp) with discount 1 of taking action 1 with probability p in every state, for many
    p."""

    def j(p):
        policy = jnp.broadcast_to(jnp.stack([1 - p, p]), (process.num_states, 2))
        return evaluation.expected_return(process, policy)

    return jax.jit(jax.vmap(jax.value_and_grad(j)))


def test_staying_pays_as_the_closed_form_says():
    theta = np.array([0.0, 0.3, 0.5, 0.9])
    j, slope = worth(stay_or_quit())(theta)
    np.testing.assert_allclose(j, theta / (1 - theta), rtol=1e-12)
    np.testing.assert_allclose(slope, 1 / (1 - theta) ** 2, rtol=1e-12)


@pytest.mark.slow
def test_the_short_corridor_is_best_walked_by_chance():
    """Sutton & Barto (2018), example 13.1: p* = 2 - √2, J* = -11.657, and -82 and -44 for an
    ε-greedy player with ε = 0.1."""
    best = 2 - np.sqrt(2)
    p = np.array([best, 0.05, 0.95, 0.4])
    j, slope = worth(short_corridor())(p)
    np.testing.assert_allclose(j, (2 * p - 4) / (p * (1 - p)), rtol=1e-10)
    np.testing.assert_allclose(j[:3], [-11.657, -82.105, -44.211], atol=1e-3)
    np.testing.assert_allclose(slope[0], 0, atol=1e-9)
    assert slope[3] > 1 and (j[0] > j[1:]).all()
