"""Fits of networks to rows: which rows, which weights are kept, and what is predicted of noise."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from etude.data.replay import ring_buffer
from etude.data.transition import Transition
from etude.errors import InvalidInput
from etude.models.ensemble import Ensemble
from etude.models.fitting import fit_until_no_gain
from etude.models.gaussian_network import LogVarianceBounds, initial_bounds
from etude.models.known_functions import KnownFunctions
from etude.models.model_rows import ModelRows, bootstrap_weights, is_held_out, rows_of_buffer
from etude.models.standardization import standardization_of
from etude.spaces import Box, EnvironmentSpec
from etude.struct import replace, validate

KEY = jax.random.key(0)
SPEC = EnvironmentSpec(Box((2,)), Box((1,), low=-1.0, high=1.0), 2)


def rows_from(x, y, reward=None, terminated=None):
    """Rows of states x that step to y by actions of zero, numbered in order."""
    count = len(x)
    return ModelRows(
        jnp.float32(x),
        jnp.zeros((count, 1)),
        jnp.zeros(count) if reward is None else jnp.float32(reward),
        jnp.float32(y),
        jnp.zeros(count, bool) if terminated is None else jnp.asarray(terminated),
        jnp.arange(count, dtype=jnp.int32),
        jnp.ones(count, bool),
    )


def numbered(number, is_valid=True):
    blank = jnp.zeros(len(number))
    return ModelRows(
        blank, blank, blank, blank, blank, jnp.asarray(number), jnp.full(len(number), is_valid)
    )


def test_bounds_hold_whatever_the_input_and_their_derivative_is_finite():
    """P-1: the log-variance stays between its bounds for inputs of ±1e6."""
    bounds = initial_bounds(3)
    v = jnp.float32([-1e6, 0.0, 1e6])
    bounded = jnp.log(bounds.variance(v))
    assert (bounded >= bounds.low).all() and (bounded <= bounds.high + 1e-4).all()
    # half way between them it is nearly the identity
    np.testing.assert_allclose(jnp.log(bounds.variance(jnp.full(3, -5.0))), -5.0, atol=0.02)
    below = bounds.high - np.logaddexp(0, bounds.high - 1.0)  # the two bounds, one after the other
    between = bounds.low + np.logaddexp(0, below - bounds.low)
    np.testing.assert_allclose(bounds.variance(jnp.full(3, 1.0)), np.exp(between), rtol=1e-5)
    slope = jax.grad(lambda bounds, v: bounds.variance(v).sum(), (0, 1))(bounds, v)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(slope))
    np.testing.assert_allclose(
        LogVarianceBounds(jnp.ones(3), -jnp.ones(3)).penalty(), 0.01 * 6, rtol=1e-5
    )


def test_rows_keep_their_sets_as_a_buffer_fills_and_wraps():
    """P-3, P-4: who is held out, and what a member counts, follow from a row's number alone."""
    spec = replace(SPEC, num_envs=2)
    length = 8

    def fill(count):
        """The rows after `count` times, of which each observes its own number."""
        zero = Transition(
            jnp.zeros((1, 2, 2)), jnp.zeros((1, 2, 1)), jnp.zeros((1, 2)),
            jnp.zeros((1, 2, 2)), jnp.zeros((1, 2), bool), jnp.zeros((1, 2), bool),
        )  # fmt: skip
        example = jax.tree.map(lambda x: x[0, 0], zero)
        buffer = ring_buffer.init(example, length * 2, 2, 1)
        for time in range(count):
            number = time * 2 + jnp.arange(2.0)
            buffer = ring_buffer.insert(buffer, replace(zero, reward=number[None]))
        return rows_of_buffer(spec, buffer)

    sets = {}
    for count in (3, 5, 8, 13, 20):
        rows = fill(count)
        assert rows.is_valid.sum() == min(count, length) * 2
        valid = np.asarray(rows.is_valid)
        np.testing.assert_array_equal(rows.number[valid], rows.reward[valid])
        held = is_held_out(KEY, rows, 0.4, 1000)
        weights = bootstrap_weights(KEY, rows, 2).T
        for number, *of_row in zip(rows.number, held, weights, rows.is_valid, strict=True):
            if of_row.pop():
                was, weight = sets.setdefault(int(number), (of_row[0], of_row[1]))
                assert was == of_row[0] and (weight == of_row[1]).all()
    assert 0 < sum(bool(held) for held, _ in sets.values()) < len(sets)


def test_about_as_many_rows_are_held_out_however_long_a_buffer_goes_on():
    """At most so many at once, also of rows with numbers far beyond the buffer's size."""
    for first in (0, 100_000):
        rows = numbered(first + jnp.arange(4000, dtype=jnp.int32))
        assert abs(int(is_held_out(KEY, rows, 0.2, 10_000).sum()) - 800) < 80
        assert abs(int(is_held_out(KEY, rows, 0.2, 300).sum()) - 300) < 60
    assert not is_held_out(KEY, numbered(jnp.arange(8), False), 0.9, 8).any()


def test_a_bootstrap_is_one_poisson_sample_for_each_member():
    """P-4: e⁻¹ of the rows are left out by a member, e⁻² by two together."""
    weights = np.asarray(bootstrap_weights(KEY, numbered(jnp.arange(20_000)), 2))
    np.testing.assert_allclose((weights > 0).mean(1), 1 - math.exp(-1), atol=0.01)
    np.testing.assert_allclose((weights > 0).all(0).mean(), (1 - math.exp(-1)) ** 2, atol=0.01)
    np.testing.assert_allclose(weights.mean(1), 1, atol=0.03)
    np.testing.assert_allclose(weights.var(1), 1, atol=0.04)


def test_a_constant_column_keeps_its_unit_and_held_out_rows_do_not_count():
    """P-2: of the statistics, against NumPy."""
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (50, 3)).astype(np.float32)
    x[:, 1] = 1e3 + 1e-4 * x[:, 1]  # constant, but for rounding
    counted = rng.random(50) < 0.7
    found = standardization_of(jnp.asarray(x), jnp.asarray(counted))
    np.testing.assert_allclose(found.mean, x[counted].mean(0, dtype=np.float64), rtol=1e-5)
    wanted = x[counted].std(0, dtype=np.float64)
    np.testing.assert_allclose(found.std, [wanted[0], 1, wanted[2]], rtol=1e-4)
    of_targets = standardization_of(jnp.asarray(x), jnp.asarray(counted), of_targets=True)
    np.testing.assert_allclose(of_targets.std, [wanted[0], 1e-5 * 1001, wanted[2]], rtol=1e-4)
    np.testing.assert_allclose(found.backward(found.forward(x)), x, rtol=1e-5)


@pytest.fixture(scope="module")
def fit_numbers():
    """A fit of one number for each member to targets that are given, by gradients that are too."""

    @partial(jax.jit, static_argnames=("patience", "most_steps"))
    def fit(weights, held_out, slope, most_steps=400, patience=2):
        def loss(weights, rows, key):
            return (weights * slope).sum()  # a member goes where its slope takes it

        def judge(weights, measured):
            error = (weights - 1) ** 2
            return 0.5 * jnp.log(error), error

        optimizer = optax.sgd(1e-3)
        return fit_until_no_gain(
            weights, optimizer.init(weights), optimizer, loss, judge,
            jnp.ones((len(weights), 4)), held_out, KEY,
            batch_size=2, most_steps=most_steps, patience=patience,
        )  # fmt: skip

    return fit


def test_each_member_keeps_the_weights_of_its_own_best_pass(fit_numbers):
    """P-3: one goes to 1 and beyond, one gets worse from the start, and one becomes NaN."""
    held_out = jnp.ones(4, bool)
    start = jnp.float32([0.7, 0.5, 0.5])
    best, _, metrics = fit_numbers(start, held_out, jnp.float32([-1.0, 1.0, jnp.nan]))
    np.testing.assert_allclose(best[0], 1, atol=0.051)  # passes step by 0.05
    assert best[1] == best[2] == 0.5  # never better than at the start
    np.testing.assert_allclose(metrics["member_mse"][1:], 0.25)
    assert metrics["diverged_fits"] == 1
    assert fit_numbers(start, held_out, jnp.ones(3))[2]["updates"] == 100  # patience: two passes


def test_without_held_out_rows_the_last_finite_weights_are_kept(fit_numbers):
    best, _, metrics = fit_numbers(jnp.zeros(3), jnp.zeros(4, bool), jnp.float32([-1, 1, jnp.nan]))
    np.testing.assert_allclose(best, [0.4, -0.4, 0], rtol=1e-4)
    assert metrics["heldout_mse"] == 0 and metrics["updates"] == 400


def test_elites_are_the_members_with_the_least_errors():
    kind = Ensemble(members=4, elites=2, hidden=(3,))
    weights = kind.make_weights(KEY, 3, 2)
    drawn = kind.draw_members(weights, jnp.float32([0.3, 0.1, 9.0, 0.2]), KEY)
    jax.tree.map(
        lambda x, y: np.testing.assert_array_equal(x, y[jnp.array([1, 3])]), drawn, weights
    )
    with pytest.raises(InvalidInput, match="elites is 5, more than the 4 members"):
        validate(Ensemble(members=4, elites=5))


SMALL = Ensemble(members=2, elites=2, hidden=(16,), batch_size=64, gradient_steps=400)


@pytest.fixture(scope="module")
def fitted():
    """A function that fits SMALL to rows: its state, and the prediction at vectors (s, a)."""

    @jax.jit
    def fit(rows, observation):
        state = SMALL.init(KEY, SPEC, KnownFunctions())
        state, metrics = SMALL.fit(state, rows, KEY)
        action = jnp.zeros((len(observation), 1))
        return state, SMALL.predict(state, observation, action, KEY), metrics

    return fit


def test_units_of_observations_and_rewards_change_predictions_by_the_same_factor(fitted):
    """P-2: a column × 1000 and the reward × 0.01, beside a column that is constant."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    x[:, 1] = 2.0
    y = x + np.stack([np.sin(x[:, 0]), 0 * x[:, 0]], 1)
    reward = x[:, 0] ** 2
    scale = np.array([1000.0, 1.0])
    _, plain, _ = fitted(rows_from(x, y, reward), jnp.float32(x[:20]))
    _, scaled, _ = fitted(
        rows_from(x * scale, y * scale, reward * 0.01), jnp.float32(x[:20] * scale)
    )
    factor = np.array([1000.0, 1.0, 0.01])
    for name, power in (("mean", 1), ("aleatoric", 2), ("epistemic", 2)):
        one, other = getattr(plain, name), getattr(scaled, name) / factor**power
        assert jnp.isfinite(other).all()
        np.testing.assert_allclose(one, other, rtol=0.05, atol=0.02)


def test_the_noise_of_data_is_what_is_predicted_of_it(fitted):
    """P-1: of s' = s + σε with a σ for each column, v = 2 ln σ within .05 in the mean."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4000, 2))
    sigma = np.array([0.1, 2.0])
    y = x + sigma * rng.normal(size=x.shape)
    _, predicted, metrics = fitted(rows_from(x, y), jnp.float32(x[:20]))
    v = jnp.log(predicted.aleatoric[:, :2]).mean(0)
    np.testing.assert_allclose(v, 2 * np.log(sigma), atol=0.1)
    assert jnp.isfinite(metrics["heldout_mse"])
    # members that agree on what more data cannot tell
    assert (predicted.epistemic[:, :2].mean(0) < 0.05 * sigma**2).all()


def test_where_only_time_limits_end_episodes_no_end_is_predicted(fitted):
    x = np.random.default_rng(2).normal(size=(100, 2))
    state, _, _ = fitted(rows_from(x, x), jnp.float32(x[:20]))
    steps = 10 * jax.random.normal(KEY, (200, 5))
    assert (state.end.probability(steps) < 1e-3).all()
