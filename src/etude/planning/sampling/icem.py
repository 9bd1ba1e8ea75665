"""The improved cross-entropy method, iCEM (Pinneri et al., 2020).

"Sample-efficient cross-entropy method for real-time planning" is the source of every default here
except β, the noise exponent, which depends on the task.
"""

from typing import Any

import jax
import jax.numpy as jnp

from etude.planning.sampling.cem import CEMState, check_elites, refit_to_elites
from etude.planning.sampling.random_shooting import Score, evaluate_candidates
from etude.types import Array

POPULATION_DECAY = 1.25  # ratio of the population sizes of two successive iterations (γ)
REUSED_FRACTION = 0.3  # fraction of the elites that the next iteration evaluates again (ξ)


def icem(
    score: Score,
    key: Array,
    mean: Array,
    std: float | Array,
    *,
    samples: int,
    elites: int,
    iterations: int,
    exponent: float | Array = 2.0,
    smoothing: float | Array = 0.1,
    reused_plans: Array | None = None,
    low: float | Array = -1.0,
    high: float | Array = 1.0,
) -> tuple[CEMState, Array]:
    """Run the cross-entropy method on plans with the four changes that let few samples suffice.

    1. The noise is correlated in time, by the `exponent` of `colored_noise` (in the paper from 0.25
       for running to 3.5 for reaching).
    2. The population shrinks with each iteration, from `samples` on.
    3. The best elites are candidates of the next iteration again; the first iteration has
       `reused_plans` of an earlier search.
    4. The mean itself is a candidate of the last iteration.

    Returns the search state and the plans to reuse in the next search, [num_reused(elites),
    horizon, *action], best first. `mean` is [horizon, *action]; the other arguments are those of
    `cem`.

    Raises InvalidInput for more elites than samples.
    """
    check_elites(samples, elites)
    std = jnp.broadcast_to(jnp.asarray(std, mean.dtype), mean.shape)
    state = CEMState(mean, std, mean, jnp.full((), -jnp.inf, mean.dtype))
    reused_plans = mean[None][:0] if reused_plans is None else reused_plans
    # a Python loop, not a scan, because the population size differs between iterations
    for i, key_noise in enumerate(jax.random.split(key, iterations)):
        noise = colored_noise(
            key_noise, (population_size(samples, elites, i), *mean.shape), exponent, mean.dtype
        )
        sampled_plans = jnp.clip(state.mean + state.std * noise, low, high)
        mean_plan = state.mean[None] if i == iterations - 1 else mean[None][:0]
        candidates = jnp.concatenate([sampled_plans, reused_plans, mean_plan])
        values = evaluate_candidates(score, candidates)
        state = refit_to_elites(state, candidates, values, elites, smoothing)
        reused_plans = candidates[jax.lax.top_k(values, num_reused(elites))[1]]
    return state, reused_plans


def colored_noise(
    key: Array, shape: tuple[int, ...], exponent: float | Array, dtype: Any = jnp.float32
) -> Array:
    """Sample normal noise [samples, time, ...] of variance 1 with power f^(−exponent) along time.

    Exponent 0 is white noise, 1 pink, 2 red. A circulant matrix filters white noise (after Timmer &
    König, 1995), so the noise is periodic in time; frequency zero has the power of the lowest
    nonzero frequency.
    """
    horizon = shape[1]
    frequency = jnp.maximum(jnp.abs(jnp.fft.fftfreq(horizon)), 1 / horizon)
    power = frequency**-exponent
    gain = jnp.sqrt(power / power.mean())
    # [time, time]
    circulant = jnp.fft.ifft(gain[:, None] * jnp.fft.fft(jnp.eye(horizon), axis=0), axis=0).real
    return jnp.einsum(
        "ts,ns...->nt...", circulant.astype(dtype), jax.random.normal(key, shape, dtype)
    )


def population_size(samples: int, elites: int, iteration: int) -> int:
    """Return the number of plans that an iteration samples.

    It falls geometrically, but not below the smaller of `samples` and twice the elites.
    """
    return max(int(samples / POPULATION_DECAY**iteration), min(samples, 2 * elites))


def num_reused(elites: int) -> int:
    """Return the number of elites that the next iteration evaluates again."""
    return max(1, round(REUSED_FRACTION * elites))
