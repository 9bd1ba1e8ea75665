"""The cross-entropy method (Rubinstein, 1999; de Boer et al., 2005)."""

import jax
import jax.numpy as jnp

from etude.errors import InvalidInput
from etude.planning.sampling.random_shooting import Score, evaluate_candidates, update_best
from etude.struct import replace, struct
from etude.types import Array


@struct
class CEMState:
    """Where the search stands; `value` is a number, the others are [*shape]."""

    mean: Array  # of the normal distribution that candidates are drawn from
    std: Array  # its standard deviation, each element by itself
    best: Array  # the best candidate so far
    value: Array  # what it is worth


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
    """Draw `samples` candidates from a normal distribution, refit it to the `elites` best of them,
    and again.

        x ~ N(mean, std²),   mean ← elites' mean,   std ← elites' std

    `mean` is [*shape], in the box; `std`, `low` and `high` are numbers or [*shape]. Candidates
    beyond the box are clipped to it, so that a maximum on its boundary is found exactly.
    `smoothing` is the share of the old mean and std that is kept (de Boer et al., 2005). The answer
    holds the best candidate of all, and the last distribution, whose mean is the steadier plan
    where `score` is noisy and the warm start of the next search.

    Raises InvalidInput for more elites than samples.
    """
    check_elites(samples, elites)

    def improve(search, key):
        noise = jax.random.normal(key, (samples, *mean.shape), mean.dtype)
        candidates = jnp.clip(search.mean + search.std * noise, low, high)
        return refit_to_elites(
            search, candidates, evaluate_candidates(score, candidates), elites, smoothing
        ), None

    std = jnp.broadcast_to(jnp.asarray(std, mean.dtype), mean.shape)
    start = CEMState(mean, std, mean, jnp.full((), -jnp.inf, mean.dtype))
    return jax.lax.scan(improve, start, jax.random.split(key, iterations))[0]


def refit_to_elites(
    search: CEMState, candidates: Array, values: Array, elites: int, smoothing: float | Array
) -> CEMState:
    """The search after it saw `candidates` [samples, *shape], worth `values` [samples]."""
    elite = candidates[jax.lax.top_k(values, elites)[1]]
    mean = smoothing * search.mean + (1 - smoothing) * elite.mean(0)
    std = smoothing * search.std + (1 - smoothing) * elite.std(0)
    return replace(update_best(search, candidates, values), mean=mean, std=std)


def check_elites(samples: int, elites: int) -> None:
    """Raises InvalidInput for more elites than samples, or none."""
    if not 1 <= elites <= samples:
        raise InvalidInput(
            f"elites is {elites}; of {samples} samples there can be 1 to {samples} of them"
        )
