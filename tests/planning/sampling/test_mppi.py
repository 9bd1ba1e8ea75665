"""Path integral control against NumPy step by step, and on a function whose maximum is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_planners import mppi_weights

from etude.planning.sampling.icem import colored_noise
from etude.planning.sampling.mppi import mppi, softmax_weights

noise_of = jax.jit(colored_noise, static_argnums=1)
KEY = jax.random.key(0)


def test_each_iteration_is_that_of_numpy(watched):
    """Plans are drawn around the mean, held in the box, and averaged with the weights of their
    returns."""
    high = np.float32([1, 2, 0.5])
    score, seen = watched(lambda x: -((x - 0.8) ** 2).sum((1, 2)))
    mean, std = np.zeros((4, 3), np.float32), np.float32([0.5, 1.0, 2.0])
    search = jax.jit(
        lambda temperature, exponent: mppi(
            score,
            KEY,
            mean,
            std,
            samples=30,
            iterations=3,
            temperature=temperature,
            exponent=exponent,
            low=-1.0,
            high=high,
        )[0]
    )
    for temperature, exponent in ((1.0, 0.0), (0.2, 2.0)):
        found = search(temperature, exponent)
        jax.effects_barrier()
        m, best, value = np.zeros((4, 3)), None, -np.inf
        for candidates, key in zip(seen, jax.random.split(KEY, 3), strict=True):
            noise = np.asarray(noise_of(key, (30, 4, 3), exponent), float)
            np.testing.assert_allclose(
                candidates, np.clip(m + noise * np.asarray(std), -1, high), rtol=1e-4, atol=1e-5
            )
            values = np.array([-((plan.astype(float) - 0.8) ** 2).sum() for plan in candidates])
            weights = mppi_weights(values, temperature)
            m = sum(w * plan.astype(float) for w, plan in zip(weights, candidates, strict=True))
            if max(values) > value:
                best, value = candidates[np.argmax(values)], max(values)
        for ours, theirs in ((found.mean, m), (found.best, best), (found.value, value)):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(found.std, np.broadcast_to(std, (4, 3)))
        everything = np.concatenate(seen)
        assert (
            (everything >= -1).all()
            and (everything <= high).all()
            and (everything == -1).any()
            and (everything == high).any()
        )
        seen.clear()


@pytest.mark.slow
def test_weights_at_their_limits():
    """Near zero temperature the best is everything; far above, all are alike; what is worth −∞
    counts nothing unless all is. The scale of the values makes no difference."""
    values = np.float32([-3, -1, -jnp.inf, -2])  # best − mean is 1
    expected = np.exp([-2, 0, -np.inf, -1]) / np.exp([-2, 0, -np.inf, -1]).sum()
    for scale in (1.0, 1e-6, 1e6):
        np.testing.assert_allclose(softmax_weights(scale * values, 1.0), expected, rtol=1e-4)
    np.testing.assert_allclose(softmax_weights(values, 1e-3), [0, 1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(softmax_weights(values[:2], 1e6), [0.5, 0.5], atol=1e-5)
    for alike in (-jnp.inf, 3.0):
        np.testing.assert_allclose(softmax_weights(jnp.full(4, alike), 1.0), np.full(4, 0.25))
    np.testing.assert_allclose(softmax_weights(np.float32([2]), 0.1), [1])
