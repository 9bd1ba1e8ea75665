"""Random shooting: the best of uniformly sampled candidates, and helpers of all samplers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from etude.struct import replace
from etude.types import Array

Score = Callable[[Array], Array]  # candidates [samples, *shape] -> values [samples]


def random_shooting(
    score: Score,
    key: Array,
    shape: tuple[int, ...],
    samples: int,
    low: float | Array = -1.0,
    high: float | Array = 1.0,
) -> tuple[Array, Array]:
    """Return the best of `samples` uniform candidates in the box, [*shape], and its value, [].

    The bounds `low` and `high` are numbers or [*shape].
    """
    candidates = jax.random.uniform(key, (samples, *shape), minval=low, maxval=high)
    return argmax_candidate(candidates, evaluate_candidates(score, candidates))


def argmax_candidate(candidates: Array, values: Array) -> tuple[Array, Array]:
    """Return the candidate of the largest value [*shape], and that value [].

    `candidates` are [samples, *shape], `values` [samples].
    """
    best = values.argmax()
    return candidates[best], values[best]


def update_best(state: Any, candidates: Array, values: Array) -> Any:
    """Replace `best` and `value` of a search state where a candidate is better than all before."""
    best, value = argmax_candidate(candidates, values)
    improved = value > state.value
    return replace(
        state,
        best=jnp.where(improved, best, state.best),
        value=jnp.where(improved, value, state.value),
    )


def evaluate_candidates(score: Score, candidates: Array) -> Array:
    """Score the candidates, [samples]; NaN, as from a model that diverges, becomes −inf."""
    values = score(candidates)
    return jnp.where(jnp.isnan(values), -jnp.inf, values)
