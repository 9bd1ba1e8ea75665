"""Random shooting: guess, and check."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from etude.struct import replace
from etude.types import Array

Score = Callable[[Array], Array]  # candidates [samples, *shape] to what each is worth, [samples]


def random_shooting(
    score: Score,
    key: Array,
    shape: tuple[int, ...],
    samples: int,
    low: float | Array = -1.0,
    high: float | Array = 1.0,
) -> tuple[Array, Array]:
    """The best of `samples` candidates drawn uniformly from the box, [*shape], and its value, [].

    `low` and `high` are numbers or [*shape].
    """
    candidates = jax.random.uniform(key, (samples, *shape), minval=low, maxval=high)
    return argmax_candidate(candidates, evaluate_candidates(score, candidates))


def argmax_candidate(candidates: Array, values: Array) -> tuple[Array, Array]:
    """The candidate of the greatest value, and that value: [samples, *shape] and [samples] to
    [*shape] and []."""
    best = values.argmax()
    return candidates[best], values[best]


def update_best(search: Any, candidates: Array, values: Array) -> Any:
    """The search, a struct with `best` and `value`, with the best candidate in it when that is
    better than all before."""
    best, value = argmax_candidate(candidates, values)
    better = value > search.value
    return replace(
        search,
        best=jnp.where(better, best, search.best),
        value=jnp.where(better, value, search.value),
    )


def evaluate_candidates(score: Score, candidates: Array) -> Array:
    """What each candidate is worth, [samples]; what is not a number, as of a model that diverged,
    is worth least of all."""
    values = score(candidates)
    return jnp.where(jnp.isnan(values), -jnp.inf, values)
