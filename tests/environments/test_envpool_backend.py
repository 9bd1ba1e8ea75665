"""EnvPool inside the compiled loop: true successors and first observations, against the ported dynamics."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.environments import make
from etude.environments.classic import PORTS
from etude.rollout import reset, rollout

pytest.importorskip("envpool", reason="EnvPool is an extra")


def follow(environment, policy, steps):
    def run(key):
        return rollout(environment, policy, reset(environment, key), key, steps)[1]
    return jax.jit(run)(jax.random.key(0))


def test_successors_are_those_of_the_dynamics_over_1e5_steps():
    """Each step again by the port, from the observation that was stored: nothing of the next episode is in it."""
    environment, port = make("CartPole-v1", 50, "envpool"), PORTS["CartPole-v1"]().environment
    policy = lambda observation, memory, key: (jax.random.randint(key, (50,), 0, 2), memory)
    experience = follow(environment, policy, 2000)
    force = jnp.where(experience.action == 1, 10.0, -10.0)[..., None]
    expected = jax.vmap(jax.vmap(port.dynamics))(experience.observation, force)
    np.testing.assert_allclose(experience.next_observation, expected, atol=2e-5, rtol=1e-5)
    done = np.asarray(experience.done)
    assert done.sum() > 2000
    first = np.asarray(experience.observation)[1:][done[:-1]]
    assert (np.abs(first) <= 0.05).all(), "an episode begins where CartPole begins"
    np.testing.assert_array_equal(np.asarray(experience.observation)[1:][~done[:-1]],
                                  np.asarray(experience.next_observation)[:-1][~done[:-1]])


def test_a_time_limit_truncates_and_does_not_terminate():
    environment = make("Pendulum-v1", 3, "envpool")
    experience = follow(environment, lambda observation, memory, key: (jnp.zeros((3, 1)), memory), 401)
    ends = np.flatnonzero(np.asarray(experience.truncated)[:, 0])
    np.testing.assert_array_equal(ends, [199, 399])
    assert not np.asarray(experience.terminated).any()


def test_actions_are_scaled():
    """Full torque costs what the true bound costs: reward = -(angle² + .1 speed² + .001 torque²)."""
    environment = make("Pendulum-v1", 2, "envpool")
    experience = follow(environment, lambda observation, memory, key: (jnp.ones((2, 1)), memory), 10)
    cos, sin, speed = np.moveaxis(np.asarray(experience.observation), -1, 0)
    expected = -(np.arctan2(sin, cos) ** 2 + 0.1 * speed**2 + 0.001 * 2.0**2)
    np.testing.assert_allclose(experience.reward, expected, atol=1e-3)


def test_a_seed_repeats_play_and_another_does_not():
    def starts(seed):
        return np.asarray(make("CartPole-v1", 4, "envpool", seed=seed).reset(jax.random.key(0))[1])
    np.testing.assert_array_equal(starts(3), starts(3))
    assert (starts(3) != starts(4)).any()
