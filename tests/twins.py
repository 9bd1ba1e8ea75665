"""A task in JAX beside the same one for Gymnasium, step by step."""

import jax
import numpy as np


def play_both(port, state, env, actions, tolerance=0.0):
    """Take these actions in both, from the same state, until the episode ends.

    Observations and rewards, within the tolerance, and flags are compared at each step. It returns
    the observations, the return, whether the episode is terminated, and the last info.
    """
    step, key = jax.jit(port.step), jax.random.key(0)
    observations, total, terminated, info = [], 0.0, False, {}
    for action in actions:
        state, result = step(state, action, key)
        seen, reward, terminated, truncated, info = env.step(action)
        np.testing.assert_allclose(result.next_observation, seen, rtol=0, atol=tolerance)
        np.testing.assert_allclose(result.reward, reward, rtol=0, atol=tolerance)
        assert (bool(result.terminated), bool(result.truncated)) == (terminated, truncated)
        observations.append(seen)
        total += reward
        if terminated or truncated:
            break
    return np.array(observations), total, terminated, info
