"""The classic divergence, measured: what each supposed cure changes, against closed forms,
eigenvalues and NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.struct import replace
from etude.tabular import chains, evaluation
from etude.tabular import dynamic_programming as dp
from etude.tabular.approximation import (
    baird,
    fitted_value_iteration,
    least_squares,
    projection,
    residual_gradient,
    semi_gradient,
    two_states,
)
from etude.tabular.mdp import from_gymnasium, make_mdp

stationary = jax.jit(chains.stationary)
project = jax.jit(projection)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@partial(jax.jit, static_argnums=(2, 3))
def learned(example, discount, steps, copy_every=1, rate=0.3):
    """θ of semi-gradient evaluation, [step + 1, feature]."""
    operator = lambda v: evaluation.expectation_backup(example.mdp, example.policy, v, discount)
    return semi_gradient(
        operator, example.features, example.weights, example.start, rate, steps, copy_every
    )


@partial(jax.jit, static_argnums=2)
def fitted(example, discount, iterations):
    """V of Π B_π, [iteration + 1, state]."""
    operator = lambda v: evaluation.expectation_backup(example.mdp, example.policy, v, discount)
    return fitted_value_iteration(
        operator,
        least_squares(example.features, example.weights),
        example.features @ example.start,
        iterations,
    )


def in_numpy(example):
    return jax.tree.map(np.asarray, example)


def chain(process, policy):
    """P_π of a process that does not end."""
    return np.einsum("sa,sat->st", policy, process.transition)


def on_policy(example):
    """The example with states weighed as often as its policy is there."""
    return replace(example, weights=stationary(chain(example.mdp, example.policy)))


def random_process(seed, states=6, actions=3):
    rng = np.random.default_rng(seed)
    law = rng.dirichlet(np.ones(states), (states, actions))
    return in_numpy(make_mdp(law, rng.normal(size=law.shape))), rng


def test_the_projection_is_the_weighted_least_squares_fit():
    _, rng = random_process(0)
    features, weights, values = rng.normal(size=(6, 2)), rng.random(6), rng.normal(size=6)
    root = np.sqrt(weights)[:, None]
    theta = np.linalg.lstsq(root * features, root[:, 0] * values)[0]
    onto = np.asarray(project(features, weights))
    np.testing.assert_allclose(onto @ values, features @ theta, rtol=1e-9)
    np.testing.assert_allclose(onto @ onto, onto, atol=1e-9)
    np.testing.assert_allclose(
        np.asarray(project(features)) @ values,
        features @ np.linalg.lstsq(features, values)[0],
        rtol=1e-9,
    )
    np.testing.assert_allclose(
        least_squares(features.reshape(2, 3, 2), weights.reshape(2, 3))(values.reshape(2, 3)),
        (features @ theta).reshape(2, 3),
        rtol=1e-9,
    )


def test_features_that_repeat_themselves_project_as_if_they_did_not():
    features = np.random.default_rng(1).normal(size=(6, 2))
    np.testing.assert_allclose(
        project(np.hstack([features, features])), project(features), atol=1e-9
    )


def test_fitting_every_value_is_value_iteration():
    """On the frozen lake, with a feature for each state; a fit in groups of four gives every state
    of a group one value."""
    process = in_numpy(from_gymnasium("FrozenLake-v1"))
    operator = partial(dp.optimality_backup, process, discount=0.9)
    fit = jax.jit(
        lambda features: fitted_value_iteration(
            operator, least_squares(features), jnp.zeros(16), 200
        )
    )
    whole, expected = np.asarray(fit(np.eye(16))), np.zeros(16)
    for v in whole[:3]:
        np.testing.assert_allclose(v, expected, atol=1e-12)
        expected = (process.expected_reward + 0.9 * process.continues @ expected).max(-1)
    np.testing.assert_allclose(whole[-1], operator(whole[-1]), atol=1e-8)
    assert whole.shape == (201, 16)
    grouped = np.kron(np.eye(4), np.ones((4, 1)))
    groups = np.asarray(fit(np.hstack([grouped, np.zeros((16, 12))])))[-1]
    np.testing.assert_allclose(
        groups, np.repeat(np.asarray(operator(groups)).reshape(4, 4).mean(1), 4), rtol=1e-8
    )


def test_any_regressor_will_do():
    """The mean of the two nearest neighbors on a line, for Q: a fixed point of its own."""
    process, _ = random_process(2)
    near = lambda targets: (targets + targets[jnp.arange(-1, 5)]) / 2
    operator = partial(dp.optimality_q_backup, process, discount=0.9)
    q = np.asarray(
        jax.jit(lambda: fitted_value_iteration(operator, near, jnp.zeros((6, 3)), 400))()
    )[-1]
    target = process.expected_reward + 0.9 * process.transition @ q.max(-1)
    np.testing.assert_allclose((target + np.roll(target, 1, 0)) / 2, q, rtol=1e-9)
    assert abs(target - q).max() > 0.1


@pytest.mark.parametrize("discount, end", [(0.9, 0.0), (0.8, 0.0), (0.9, 0.3), (0.99, 0.1)])
def test_two_states_grow_by_the_factor_of_the_paper(discount, end):
    """Π B multiplies θ by γ (6 - 4 end) / 5 (Sutton & Barto, 2018, eq. 11.10)."""
    factor = discount * (6 - 4 * end) / 5
    values = fitted(two_states(end), discount, 40)
    np.testing.assert_allclose(values, factor ** np.arange(41)[:, None] * [1, 2], rtol=1e-9)


@pytest.mark.parametrize("copy_every", [1, 5, 50, 500])
def test_no_target_network_cures_two_states(copy_every):
    """From copy to copy θ grows by 1 + (1 - (1 - α x̄²)ⁿ)(6γ/5 - 1), x̄² = 5/2: above one for every
    n, in the end that of Π B."""
    rate, discount = 0.05, 0.9
    theta = learned(two_states(), discount, 10 * copy_every, copy_every, rate)[::copy_every, 0]
    growth = 1 + (1 - (1 - rate * 2.5) ** copy_every) * (6 * discount / 5 - 1)
    np.testing.assert_allclose(theta, growth ** np.arange(11), rtol=1e-9)
    assert 1 < growth <= 1.08 and (copy_every < 500 or growth == pytest.approx(1.08))
    calm = learned(two_states(), 0.8, 10 * copy_every, copy_every, rate)[::copy_every, 0]
    assert (np.diff(calm) < 0).all()  # below 5/6 each of them converges


def test_the_policys_own_weights_cure_two_states():
    """It stays in the second state, where 2θ is followed by 2θ."""
    example = on_policy(two_states())
    np.testing.assert_allclose(example.weights, [0, 1], atol=1e-12)
    np.testing.assert_allclose(
        fitted(example, 0.9, 40), 0.9 ** np.arange(41)[:, None] * [1, 2], rtol=1e-9
    )
    np.testing.assert_allclose(
        learned(example, 0.9, 40, 1, 0.1)[:, 0], (1 - 0.1 * 4 * 0.1) ** np.arange(41), rtol=1e-9
    )


@pytest.mark.slow
def test_the_star_is_bairds():
    star = in_numpy(baird())
    np.testing.assert_array_equal(
        star.features @ np.arange(1, 9), [*(2 * np.arange(1, 7) + 8), 7 + 2 * 8]
    )
    np.testing.assert_allclose(
        stationary(chain(star.mdp, np.tile([6 / 7, 1 / 7], (7, 1)))), star.weights, rtol=1e-9
    )
    np.testing.assert_allclose(
        chain(star.mdp, star.policy), np.tile(np.eye(7)[6], (7, 1)), rtol=1e-12
    )
    assert not star.mdp.reward.any()


def slope(example, discount, weights):
    """The matrix K of expected semi-gradient updates, θ ← θ + α K θ."""
    x, transition = np.asarray(example.features), chain(example.mdp, example.policy)
    return x.T @ np.diag(weights) @ (discount * transition - np.eye(len(x))) @ x


@pytest.mark.slow
def test_the_star_diverges_however_small_the_step():
    """K has an eigenvalue with a positive real part, so |1 + α k| > 1 for every α; the course of θ
    is (1 + α K)ᵗ θ₀."""
    star = baird()
    k = slope(star, 0.99, np.asarray(star.weights))
    assert np.linalg.eigvals(k).real.max() > 0.02
    for rate in (0.3, 0.01):
        theta = learned(star, 0.99, 2000, 1, rate)
        expected = np.linalg.matrix_power(np.eye(8) + rate * k, 2000) @ star.start
        np.testing.assert_allclose(theta[-1], expected, rtol=1e-6)
        assert abs(theta[-1]).max() > 50 * abs(theta[0]).max()
    # at α = .01
    assert theta[1000, 7] == pytest.approx(335, abs=1) and theta[1000, 6] == pytest.approx(
        6.85, abs=0.01
    )


@pytest.mark.slow
def test_a_target_network_cures_the_star_when_enough_steps_lie_between_copies():
    """Π B contracts there. α = .3: a copy every second step diverges, every fifth or hundredth
    converges, at best by γ a copy."""
    star = in_numpy(baird())
    values = lambda copy_every, copies: abs(
        np.asarray(learned(star, 0.99, copy_every * copies, copy_every))[::copy_every]
        @ star.features.T
    ).max(1)
    assert values(2, 400)[-1] > 1e4
    for copy_every in (5, 100):
        late = values(copy_every, 800)
        assert late[-1] < 0.01
    assert late[-1] / late[-2] == pytest.approx(0.99, rel=1e-3)
    exact = np.asarray(fitted(star, 0.99, 500))
    np.testing.assert_allclose(abs(exact).max(1)[1:], 12 * 0.99 ** np.arange(1, 501), rtol=1e-6)
    np.testing.assert_allclose(project(star.features, star.weights), np.eye(7), atol=1e-12)


@pytest.mark.slow
def test_the_policys_own_weights_cure_the_star_where_the_policy_is():
    """In the seventh state; the others keep a wrong value, for nothing is asked of them."""
    star = on_policy(in_numpy(baird()))
    values = np.asarray(learned(star, 0.99, 3000, 1, 0.1)) @ star.features.T
    assert abs(values[-1, 6]) < 1e-3 < 1 < abs(values[-1, :6]).min()
    assert abs(values).max() <= 12 + 1e-9  # and none grows on the way


@partial(jax.jit, static_argnames="best")
def rates(process, policy, features, weights, best=False):
    """How Π B_π (Π B when `best`) contracts at γ = .95: in the norm of the weights, in the largest
    difference."""
    onto = projection(features, weights)
    backup = (
        dp.optimality_backup
        if best
        else lambda process, v, discount: evaluation.expectation_backup(
            process, policy, v, discount
        )
    )
    operator = lambda v: onto @ backup(process, v, discount=0.95)
    return [
        dp.contraction_rate(operator, jax.random.key(0), weights.shape, norm)
        for norm in (dp.weighted_norm(weights), dp.sup_norm)
    ]


@pytest.mark.slow
def test_with_the_policys_own_weights_the_fit_contracts_whatever_the_features():
    """Tsitsiklis & Van Roy, 1997: by γ in the norm of those weights. In others, and other norms, it
    may expand."""
    process, rng = random_process(3)
    policy = rng.dirichlet(np.ones(3), 6)
    stays = stationary(chain(process, policy))
    drawn = rng.normal(size=(20, 6, 2))
    assert max(rates(process, policy, features, stays)[0] for features in drawn) <= 0.95 + 1e-9
    assert max(rates(process, policy, features, stays)[1] for features in drawn) > 1
    example = two_states()
    assert min(rates(example.mdp, example.policy, example.features, example.weights)) > 1.1


@pytest.mark.slow
def test_averages_contract_with_any_weights_and_other_features_need_not():
    """Gordon, 1995: a mean over groups of states expands no largest difference, so Π B contracts by
    γ for the max too."""
    process, rng = random_process(4)
    policy = np.full((6, 3), 1 / 3)
    for _ in range(20):
        groups = np.eye(3)[np.concatenate([np.arange(3), rng.integers(3, size=3)])]
        # met by constants
        assert rates(process, policy, groups, rng.random(6) + 0.01, best=True)[1] == pytest.approx(
            0.95
        )
    others = [
        rates(process, policy, rng.normal(size=(6, 3)), rng.random(6), best=True)[1]
        for _ in range(20)
    ]
    assert max(others) > 1


def test_the_semi_gradient_is_that_of_numpy():
    """On Q, with a target copied every third step, from the definition."""
    process, rng = random_process(5)
    features, weights, start = (
        rng.normal(size=(6, 3, 4)),
        rng.dirichlet(np.ones(18)).reshape(6, 3),
        rng.normal(size=4),
    )
    theta, target, told = start.copy(), start.copy(), [start.copy()]
    p, r = process.transition, process.expected_reward
    for step in range(12):
        if step % 3 == 0:
            target = theta.copy()
        best = (features @ target).max(-1)
        change = np.zeros(4)
        for s in range(6):
            for a in range(3):
                change += (
                    weights[s, a]
                    * (r[s, a] + 0.9 * p[s, a] @ best - features[s, a] @ theta)
                    * features[s, a]
                )
        theta = theta + 0.2 * change
        told.append(theta)
    ours = semi_gradient(
        partial(dp.optimality_q_backup, process, discount=0.9), features, weights, start, 0.2, 12, 3
    )
    np.testing.assert_allclose(ours, told, rtol=1e-9)


def test_a_feature_for_every_choice_is_q_iteration():
    """Steps of the full size, all choices alike: θ is Q, and every step B."""
    process, _ = random_process(6)
    features, weights = np.eye(18).reshape(6, 3, 18), np.full((6, 3), 1 / 18)
    theta = semi_gradient(
        partial(dp.optimality_q_backup, process, discount=0.8),
        features,
        weights,
        np.zeros(18),
        18.0,
        5,
    )
    q = np.zeros((6, 3))
    for told in np.asarray(theta):
        np.testing.assert_allclose(told.reshape(6, 3), q, rtol=1e-9)
        q = process.expected_reward + 0.8 * process.transition @ q.max(-1)


def test_the_semi_gradient_is_the_gradient_of_nothing_and_the_residual_one_is():
    """Second derivatives of a function are symmetric; those of the step of either are its change of
    direction."""
    process, rng = random_process(7)
    features, weights, start = (
        rng.normal(size=(6, 3)),
        rng.dirichlet(np.ones(6)),
        rng.normal(size=3),
    )
    operator = lambda v: evaluation.expectation_backup(process, np.full((6, 3), 1 / 3), v, 0.9)
    step = lambda method: (
        lambda theta: method(operator, features, weights, theta, 1.0, 1)[1] - theta
    )
    semi, true = (
        np.asarray(jax.jit(jax.jacobian(step(method)))(start))
        for method in (semi_gradient, residual_gradient)
    )
    assert abs(semi - semi.T).max() > 0.05
    np.testing.assert_allclose(true, true.T, atol=1e-12)


@pytest.mark.slow
def test_the_true_gradient_descends_where_the_semi_gradient_does_not():
    """To zero fast in two states and slowly in the star; each step is that of the loss by hand, ½
    |D^½ (γ P - I) X θ|²."""
    for example, rate, steps, left in ((two_states(), 0.1, 1000, 1e-6), (baird(), 0.3, 6000, 2.0)):
        operator = partial(
            evaluation.expectation_backup, example.mdp, example.policy, discount=0.99
        )
        run = jax.jit(
            lambda x, rate=rate, steps=steps, operator=operator: residual_gradient(
                operator, x.features, x.weights, x.start, rate, steps
            )
        )
        theta, x = np.asarray(run(example)), in_numpy(example)
        error = (0.99 * chain(x.mdp, x.policy) - np.eye(len(x.features))) @ x.features
        curvature = error.T @ np.diag(x.weights) @ error
        np.testing.assert_allclose(
            theta[1:4], theta[:3] - rate * theta[:3] @ curvature, rtol=1e-9, atol=1e-12
        )
        losses = ((theta @ error.T) ** 2 @ x.weights) / 2
        assert (np.diff(losses) <= 1e-12).all() and losses[-1] < 1e-3 * losses[0]
        assert abs(theta[-1] @ x.features.T).max() < left
