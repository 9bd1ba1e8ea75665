"""Environments without velocities are the same with less to see, in JAX and on Gymnasium."""

import jax
import numpy as np
import pytest

from etude.environments import make
from etude.environments.classic import PARTIALLY_OBSERVED_PORTS, PORTS
from etude.environments.wrappers.hide_velocity import POSITIONS
from etude.spaces import Discrete


@pytest.mark.parametrize("hidden", POSITIONS)
def test_an_environment_without_velocities_has_less_to_see(hidden):
    """All kinds of it from the same state, step by step: in JAX, on Gymnasium, and the whole."""
    name = "etude/{}WithoutVelocity-{}".format(*hidden.split("-"))
    port, whole = PARTIALLY_OBSERVED_PORTS[name](), PORTS[hidden]().environment
    in_jax, in_python = make(name, backend="jax"), make(name, backend="gymnasium")
    assert in_jax.spec == in_python.spec and in_jax.spec.observation.shape == (2,)
    env = in_python.vector_env.envs[0]
    seen, _ = env.reset(seed=3)
    state = np.float32(env.unwrapped.state)
    step = jax.jit(port.environment.step)
    step_whole = jax.jit(whole.step)
    for t in range(12):
        action = t % 2 if isinstance(port.action_space, Discrete) else np.float32([t % 3 - 1])
        seen, reward, terminated, truncated, _ = env.step(action)
        _, all_of_it = step_whole(state, action, jax.random.key(0))
        state, result = step(state, action, jax.random.key(0))
        np.testing.assert_array_equal(
            result.next_observation, all_of_it.next_observation[np.array(POSITIONS[hidden])]
        )
        np.testing.assert_allclose(result.next_observation, seen, atol=1e-5)
        np.testing.assert_allclose(result.reward, reward, atol=1e-5)
        assert (terminated, truncated) == (bool(result.terminated), False)
    assert env.spec.max_episode_steps == port.limit == PORTS[hidden]().limit
    assert env.observation_space.contains(seen)


def test_what_is_left_are_the_positions():
    """Of a state whose elements all differ."""
    _, result = PARTIALLY_OBSERVED_PORTS["etude/PendulumWithoutVelocity-v1"]().environment.step(
        np.float32([0.3, 0]), np.zeros(1, np.float32), jax.random.key(0)
    )
    cosine, sine = result.next_observation
    angle = np.arctan2(sine, cosine)
    rate = 0.05 * 3 * 10 / 2 * np.sin(0.3)  # after a step under gravity alone
    assert angle == pytest.approx(0.3 + 0.05 * rate, abs=1e-6)
    port = PARTIALLY_OBSERVED_PORTS["etude/CartPoleWithoutVelocity-v1"]().environment
    _, result = port.step(np.float32([1, 0.5, 0.1, -2]), 1, jax.random.key(0))
    np.testing.assert_allclose(result.next_observation, [1.01, 0.06], atol=1e-6)


def test_physics_are_parameters():
    port = PARTIALLY_OBSERVED_PORTS["etude/PendulumWithoutVelocity-v1"](gravity=3.0)
    assert port.environment.environment.gravity == 3.0 and port.limit == 200
    assert (
        make("etude/PendulumWithoutVelocity-v1", options={"g": 3.0}).vector_env.envs[0].unwrapped.g
        == 3.0
    )
