"""The improved cross-entropy method, iCEM (Pinneri et al., 2020).

"Sample-efficient cross-entropy method for real-time planning", the source of every default here but
one: β is to be chosen.
"""

from typing import Any

import jax
import jax.numpy as jnp

from etude.planning.sampling.cem import CEMState, check_elites, refit_to_elites
from etude.planning.sampling.random_shooting import Score, evaluate_candidates
from etude.types import Array

# each iteration draws this many times fewer candidates than the one before (their γ)
POPULATION_DECAY = 1.25
REUSED_SHARE = 0.3  # the share of the elites that is judged again (their ξ)


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
    kept: Array | None = None,
    low: float | Array = -1.0,
    high: float | Array = 1.0,
) -> tuple[CEMState, Array]:
    """The cross-entropy method for plans, `mean` [horizon, *action], with what lets it do with few
    samples:

    noise that is correlated in time, by the `exponent` of `colored_noise` (from 0.25, for running,
    to 3.5, for reaching, in the paper); `samples` that become fewer with each iteration; the best
    of the elites judged again in the next, and `kept` ones from an earlier search in the first; and
    the mean itself among the last candidates.

    The answer is the search and the plans to keep for the next one, [reused(elites), horizon,
    *action], best first. `smoothing` is the share of the old mean and std that is kept; the other
    arguments are those of `cross_entropy`.

    Raises InvalidInput for more elites than samples.
    """
    check_elites(samples, elites)
    std = jnp.broadcast_to(jnp.asarray(std, mean.dtype), mean.shape)
    search = CEMState(mean, std, mean, jnp.full((), -jnp.inf, mean.dtype))
    kept = mean[None][:0] if kept is None else kept
    # not a scan: each has a size of its own
    for i, key_draw in enumerate(jax.random.split(key, iterations)):
        noise = colored_noise(
            key_draw, (population_size(samples, elites, i), *mean.shape), exponent, mean.dtype
        )
        drawn = jnp.clip(search.mean + search.std * noise, low, high)
        middle = search.mean[None] if i == iterations - 1 else mean[None][:0]
        candidates = jnp.concatenate([drawn, kept, middle])
        values = evaluate_candidates(score, candidates)
        search = refit_to_elites(search, candidates, values, elites, smoothing)
        kept = candidates[jax.lax.top_k(values, num_reused(elites))[1]]
    return search, kept


def colored_noise(
    key: Array, shape: tuple[int, ...], exponent: float | Array, dtype: Any = jnp.float32
) -> Array:
    """Normal noise [samples, time, ...] of variance 1 whose power falls with the frequency f along
    time as f^(−exponent).

    0 is white, 1 pink, 2 red. White noise is filtered (after Timmer & König, 1995) by a circulant
    matrix, so that the end of a sample leads to its beginning; the mean over time has the power of
    the lowest frequency.
    """
    time = shape[1]
    frequency = jnp.maximum(jnp.abs(jnp.fft.fftfreq(time)), 1 / time)
    power = frequency**-exponent
    gain = jnp.sqrt(power / power.mean())
    # [time, time]
    circulant = jnp.fft.ifft(gain[:, None] * jnp.fft.fft(jnp.eye(time), axis=0), axis=0).real
    return jnp.einsum(
        "ts,ns...->nt...", circulant.astype(dtype), jax.random.normal(key, shape, dtype)
    )


def population_size(samples: int, elites: int, iteration: int) -> int:
    """How many candidates an iteration draws: ever fewer, yet twice the elites where there were as
    many to begin with."""
    return max(int(samples / POPULATION_DECAY**iteration), min(samples, 2 * elites))


def num_reused(elites: int) -> int:
    """How many of the elites are judged again."""
    return max(1, round(REUSED_SHARE * elites))
