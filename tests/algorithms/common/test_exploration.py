"""Exploration is as frequent as it is said to be, and fair."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.algorithms.common.exploration import add_gaussian_noise, epsilon_greedy, mix_actions

KEY = jax.random.key(0)


@pytest.mark.parametrize("epsilon", [0, 0.4, 1])
def test_an_action_is_random_as_often_as_epsilon_says(epsilon):
    values = jnp.broadcast_to(np.float32([0, 3, 1, 3]), (20_000, 4))
    frequency = np.bincount(epsilon_greedy(KEY, values, epsilon), minlength=4) / 20_000
    np.testing.assert_allclose(
        frequency, epsilon / 4 + (1 - epsilon) * np.array([0, 1, 0, 0]), atol=0.015 * (epsilon > 0)
    )


@pytest.mark.parametrize("epsilon", [0, 1])
def test_among_legal_actions_the_best_is_taken_or_each_as_often(epsilon):
    values = jnp.broadcast_to(np.float32([0, 3, 1, 3]), (20_000, 4))
    legal = jnp.broadcast_to(np.array([True, False, True, False]), values.shape)
    frequency = np.bincount(epsilon_greedy(KEY, values, epsilon, legal), minlength=4) / 20_000
    wanted = [0.5, 0, 0.5, 0] if epsilon else [0, 0, 1, 0]
    np.testing.assert_allclose(frequency, wanted, atol=0.015 * epsilon)


def test_whole_rows_wander():
    action, other = np.zeros((5_000, 2, 3), np.float32), np.ones((5_000, 2, 3), np.float32)
    rows = np.asarray(mix_actions(KEY, other, action, 0.3)).reshape(5_000, -1)
    assert (rows == rows[:, :1]).all() and rows.mean() == pytest.approx(0.3, abs=0.02)


def test_noise_has_its_spread_stays_inside_and_gives_way_to_uniform_play():
    action = jnp.full((20_000, 1), 0.2)
    noisy = np.asarray(add_gaussian_noise(action, 0.1, False, KEY))
    assert noisy.mean() == pytest.approx(0.2, abs=0.005) and noisy.std() == pytest.approx(
        0.1, rel=0.03
    )
    wide = np.asarray(add_gaussian_noise(action, 5.0, False, KEY))
    assert (np.abs(wide) <= 1).all() and (np.abs(wide) == 1).mean() > 0.7
    uniform = np.asarray(add_gaussian_noise(action, 0.1, True, KEY))
    np.testing.assert_allclose(np.histogram(uniform, 10, (-1, 1))[0] / 20_000, 0.1, atol=0.01)
