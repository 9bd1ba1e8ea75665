"""The pendulum with noise on the action: Pendulum-v1 but for the noise, on both backends."""

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from gymnasium.utils.env_checker import check_env

from etude.environments.classic.pendulum import Pendulum
from etude.environments.registry import JAX_ENVIRONMENTS, env_factory
from etude.environments.tasks.noisy_pendulum import NoisyPendulum
from etude.environments.tasks.noisy_pendulum_env import TORQUE_NOISE, NoisyPendulumEnv

NAME = "etude/NoisyPendulum-v0"


def test_in_jax_it_is_the_pendulum_under_the_action_plus_noise():
    key, state, action = jax.random.key(3), jnp.float32([2.0, 0.5]), jnp.float32([0.7])
    noise = TORQUE_NOISE * jax.random.normal(key, (1,))
    found = NoisyPendulum().step(state, action, key)
    expected = Pendulum().step(state, action + noise, key)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def rates_after_a_step_in_gymnasium(action, count):
    """The rate [count] after one step from rest at an angle of 0, whose torque is the noise's."""
    env, rates = NoisyPendulumEnv(), []
    env.reset(seed=0)
    for _ in range(count):
        env.state = np.zeros(2)
        env.step(np.float32([action]))
        rates.append(env.state[1])
    return np.array(rates)


def test_both_kinds_have_the_same_noise_and_clip_the_torque():
    """At rest upright the rate after a step is .05 · 3 · torque: its quantiles agree."""
    keys = jax.random.split(jax.random.key(0), 20_000)
    step = jax.vmap(NoisyPendulum().step, (None, None, 0))
    states, result = step(jnp.zeros(2), jnp.float32([0.5]), keys)
    ours, theirs = (
        np.asarray(states[:, 1]) / 0.15,
        rates_after_a_step_in_gymnasium(0.5, 4_000) / 0.15,
    )
    normal = np.random.default_rng(1).normal(0.5, TORQUE_NOISE, 1_000_000).clip(-2, 2)
    for share in (0.02, 0.25, 0.5, 0.75, 0.98):
        np.testing.assert_allclose(np.quantile(ours, share), np.quantile(normal, share), atol=0.03)
        np.testing.assert_allclose(
            np.quantile(theirs, share), np.quantile(normal, share), atol=0.07
        )
    assert result.next_observation.shape == (20_000, 3)


def test_it_is_registered_with_gymnasium_and_ends_by_its_time_limit_alone():
    env = env_factory(NAME)()
    check_env(env.unwrapped, skip_render_check=True)
    env.reset(seed=1)
    flags = [env.step(env.action_space.sample())[2:4] for _ in range(200)]
    assert flags == [(False, False)] * 199 + [(False, True)]
    assert JAX_ENVIRONMENTS[NAME]().limit == 200
    assert PendulumEnv().action_space == env.action_space
