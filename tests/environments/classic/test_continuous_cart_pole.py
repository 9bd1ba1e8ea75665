"""The cart-pole under a continuous force: mbrl-lib's formula, in JAX and on Gymnasium."""

import math
import warnings

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import etude
from etude.environments.classic import PORTS
from etude.environments.registry import env_factory
from etude.environments.tasks.continuous_cart_pole_env import ContinuousCartPoleEnv

NAME = "etude/CartPoleContinuous-v0"


def mbrl_step(state, action):
    """(next state, reward, terminated) as mbrl-lib's `cartpole_continuous` steps, number by
    number."""
    x, speed, angle, rate = state
    sine, cosine = math.sin(angle), math.cos(angle)
    push = (10.0 * action + 0.1 * 0.5 * rate * rate * sine) / 1.1
    turn = (9.8 * sine - cosine * push) / (0.5 * (4.0 / 3.0 - 0.1 * cosine * cosine / 1.1))
    acceleration = push - 0.1 * 0.5 * turn * cosine / 1.1
    state = (x + 0.02 * speed, speed + 0.02 * acceleration, angle + 0.02 * rate, rate + 0.02 * turn)
    inside = -2.4 <= state[0] <= 2.4 and -24 * math.pi / 360 <= state[2] <= 24 * math.pi / 360
    return state, 1.0, not inside


def balance(state, noise):
    """A force that holds the pole, with noise."""
    return float(np.clip(state @ [0.3, 0.6, 5.0, 1.2] / 2 + noise, -1, 1))


@pytest.mark.parametrize("strength, length", [(0.0, 200), (1.0, None)])
def test_both_kinds_step_as_mbrl_lib_does(strength, length):
    """Under a controller, to the limit of 200 steps, and under noise alone, until the pole falls.

    The state goes on from the loop in both, so that no error adds up.
    """
    env, port = env_factory(NAME)(), PORTS[NAME]()
    seen, _ = env.reset(seed=5)
    state = np.array(env.unwrapped.state)
    timed, _ = port.reset(jax.random.key(0))
    noise, steps, over = np.random.default_rng(0), 0, False
    step = jax.jit(port.step)
    while not over:
        action = np.float32([balance(state * (1 - strength), noise.normal(0, 0.3 + strength))])
        expected, reward, terminated = mbrl_step(state, float(action[0]))
        seen, *told, truncated, _ = env.step(action)
        timed, result = step(type(timed)(np.float32(state), timed.time), action, jax.random.key(0))
        steps += 1
        np.testing.assert_allclose(env.unwrapped.state, expected, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(seen, expected, rtol=1e-6)
        np.testing.assert_allclose(result.next_observation, expected, rtol=1e-6, atol=1e-7)
        flags = terminated, steps == 200
        assert (*told, truncated) == (reward, *flags)
        assert (float(result.reward), bool(result.terminated)) == (reward, terminated)
        assert bool(result.truncated) == flags[1]
        state, over = np.array(env.unwrapped.state), any(flags)
    assert steps == length or (length is None and terminated and steps < 100)


def test_it_is_an_environment_of_gymnasium_and_draws_itself():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # the check asks for these; Gymnasium's CartPole has velocities without bounds too
        warnings.filterwarnings("ignore", "(?s).*(gymnasium.make|infinity)")
        check_env(ContinuousCartPoleEnv("rgb_array"))
    in_jax, in_python = (etude.make(NAME, 2, backend).spec for backend in ("jax", "gymnasium"))
    assert in_jax == in_python and gymnasium.spec(NAME).max_episode_steps == 200
    picture_of = lambda angle: pictured(np.array([0.0, 0.0, angle, 0.0]))
    upright, leaning = picture_of(0.0), picture_of(0.3)
    assert upright.shape == (400, 600, 3) and (upright != leaning).any()


def pictured(state):
    """The picture of a state."""
    env = ContinuousCartPoleEnv("rgb_array")
    env.reset(seed=0)
    env.state = state
    picture = env.render()
    env.close()
    return picture


def test_no_force_is_between_the_two_of_the_discrete_one():
    """A push of ±1 is CartPole's left and right, and one of 0 lies in their middle."""
    state, key = np.float32([0.1, -0.2, 0.05, 0.3]), jax.random.key(0)
    discrete, continuous = PORTS["CartPole-v1"]().environment, PORTS[NAME]().environment
    left, right = (discrete.step(state, action, key)[0] for action in (0, 1))
    ours = [continuous.step(state, np.float32([action]), key)[0] for action in (-1, 0, 1)]
    np.testing.assert_allclose(ours, [left, (left + right) / 2, right], rtol=1e-5, atol=1e-7)
