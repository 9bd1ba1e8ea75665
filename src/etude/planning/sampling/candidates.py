"""Candidates of a search: their values, the best of them, and where the next search starts."""

from typing import Any

import jax.numpy as jnp

from etude.planning.plans import shift_plan
from etude.planning.protocol import Score, WarmStart
from etude.struct import replace
from etude.types import Array


def evaluate_candidates(score: Score, candidates: Array) -> Array:
    """Score the candidates, [samples]; NaN and ∞, as from a model that diverges, become −∞."""
    values = score(candidates)
    return jnp.where(values < jnp.inf, values, -jnp.inf)


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


def join(sampled: Array, given: Array | None) -> Array:
    """The candidates of an iteration: those that it samples, then those that are given to it."""
    return sampled if given is None else jnp.concatenate([sampled, given])


def fresh_start(mean: Array, num_kept: int = 0) -> WarmStart:
    """The start of a first search, which has no plans to evaluate again but copies of the mean."""
    return WarmStart(mean, jnp.broadcast_to(mean, (num_kept, *mean.shape)))


def shift_start(start: WarmStart) -> WarmStart:
    """The start one step later: each plan without its first action, its last one repeated."""
    kept_plans = jnp.concatenate([start.kept_plans[:, 1:], start.kept_plans[:, -1:]], 1)
    return WarmStart(shift_plan(start.mean), kept_plans)
