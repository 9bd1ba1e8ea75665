"""The cross-entropy method, CEM (Rubinstein, 1999; de Boer et al., 2005)."""

import jax
import jax.numpy as jnp

from etude.errors import InvalidInput
from etude.planning.sampling.random_shooting import Score, evaluate_candidates, update_best
from etude.struct import replace, struct
from etude.types import Array


@struct
class CEMState:
    """State of the search: a diagonal normal distribution and the best candidate so far."""

    mean: Array  # [*shape]: mean of the sampling distribution
    std: Array  # [*shape]: standard deviation of each element
    best: Array  # [*shape]: the best candidate so far
    value: Array  # []: its value


def cem(
    score: Score,
    key: Array,
    mean: Array,
    std: float | Array,
    *,
    samples: int,
    elites: int,
    iterations: int,
    smoothing: float | Array = 0.0,
    low: float | Array = -1.0,
    high: float | Array = 1.0,
) -> CEMState:
    """Sample candidates from a normal distribution, refit it to the best ones, and repeat.

        x ~ N(mean, std²),   mean ← elites' mean,   std ← elites' std

    `mean` is [*shape], in the box; `std`, `low` and `high` are numbers or [*shape]. Candidates
    beyond the box are clipped to it, so that the search finds a maximum on the boundary exactly.
    `smoothing` is the weight of the old mean and std in the new ones (de Boer et al., 2005). The
    result holds the best candidate of all iterations and the last distribution. Its mean is the
    more robust plan where `score` is noisy, and the warm start of the next search.

    Raises InvalidInput for more elites than samples.
    """
    check_elites(samples, elites)

    def iterate(state, key):
        noise = jax.random.normal(key, (samples, *mean.shape), mean.dtype)
        candidates = jnp.clip(state.mean + state.std * noise, low, high)
        return refit_to_elites(
            state, candidates, evaluate_candidates(score, candidates), elites, smoothing
        ), None

    std = jnp.broadcast_to(jnp.asarray(std, mean.dtype), mean.shape)
    state = CEMState(mean, std, mean, jnp.full((), -jnp.inf, mean.dtype))
    return jax.lax.scan(iterate, state, jax.random.split(key, iterations))[0]


def refit_to_elites(
    state: CEMState, candidates: Array, values: Array, elites: int, smoothing: float | Array
) -> CEMState:
    """Refit to the best of `candidates` [samples, *shape] by their `values` [samples]."""
    elite = candidates[jax.lax.top_k(values, elites)[1]]
    mean = smoothing * state.mean + (1 - smoothing) * elite.mean(0)
    std = smoothing * state.std + (1 - smoothing) * elite.std(0)
    return replace(update_best(state, candidates, values), mean=mean, std=std)


def check_elites(samples: int, elites: int) -> None:
    """Raise InvalidInput unless 1 ≤ elites ≤ samples."""
    if not 1 <= elites <= samples:
        raise InvalidInput(
            f"elites is {elites}; of {samples} samples there can be 1 to {samples} of them"
        )
