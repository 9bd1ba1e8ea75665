"""The cross-entropy method, CEM (Rubinstein, 1999; de Boer et al., 2005)."""

from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp

from etude.errors import InvalidInput
from etude.planning.protocol import PlanResult, Score, SearchHistory, WarmStart
from etude.planning.sampling.candidates import (
    evaluate_candidates,
    fresh_start,
    join,
    shift_start,
    update_best,
)
from etude.struct import replace, static, struct, traced
from etude.types import Array

State = TypeVar("State")  # a CEMState, or a struct with its fields


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
    candidates: Array | None = None,
    low: float | Array = -1.0,
    high: float | Array = 1.0,
) -> tuple[CEMState, SearchHistory]:
    """Sample candidates from a normal distribution, refit it to the best ones, and repeat.

        x ~ N(mean, std²),   mean ← elites' mean,   std ← elites' std

    `mean` is [*shape], in the box; `std`, `low` and `high` are numbers or [*shape]. Candidates
    beyond the box are clipped to it, so that the search finds a maximum on the boundary exactly.
    `smoothing` is the weight of the old mean and std in the new ones (de Boer et al., 2005).
    `candidates` [candidate, *shape] are evaluated beside the sampled ones in every iteration, and
    can be elites.

    Returns the last state, with the best candidate of all iterations and the last distribution, and
    the best candidate after each iteration. The mean is the more robust plan where `score` is
    noisy, and the warm start of the next search.

    Raises InvalidInput for more elites than samples.
    """
    check_elites(samples, elites)

    def iterate(state, key):
        noise = jax.random.normal(key, (samples, *mean.shape), mean.dtype)
        sampled = jnp.clip(state.mean + state.std * noise, low, high)
        evaluated = join(sampled, candidates)
        values = evaluate_candidates(score, evaluated)
        state = refit_to_elites(state, evaluated, values, elites, smoothing)
        return state, SearchHistory(state.best, state.value)

    std = jnp.broadcast_to(jnp.asarray(std, mean.dtype), mean.shape)
    state = CEMState(mean, std, mean, jnp.full((), -jnp.inf, mean.dtype))
    return jax.lax.scan(iterate, state, jax.random.split(key, iterations))


def refit_to_elites(
    state: State, candidates: Array, values: Array, elites: int, smoothing: float | Array
) -> State:
    """Refit to the best of `candidates` [samples, *shape] by their `values` [samples]."""
    old: Any = state
    elite = candidates[jax.lax.top_k(values, elites)[1]]
    mean = smoothing * old.mean + (1 - smoothing) * elite.mean(0)
    std = smoothing * old.std + (1 - smoothing) * elite.std(0)
    return replace(update_best(state, candidates, values), mean=mean, std=std)


def check_elites(samples: int, elites: int) -> None:
    """Raise InvalidInput unless 1 ≤ elites ≤ samples."""
    if not 1 <= elites <= samples:
        raise InvalidInput(
            f"elites is {elites}; of {samples} samples there can be 1 to {samples} of them"
        )


@struct
class CEM:
    """The cross-entropy method: a normal distribution, refit to the best plans."""

    elites: int = static(10, at_least=1)
    """Best plans to which each iteration refits (10: Pinneri et al., 2020)."""
    std: float = traced(0.5, above=0)
    """Initial standard deviation of the plans, in the box [-1, 1] (0.5: Pinneri et al.)."""
    smoothing: float = traced(0.1, at_least=0, at_most=1)
    """Weight of the old mean and standard deviation in each refit (0.1: Pinneri et al.)."""
    follow: Literal["best", "mean"] = static("best")
    """Plan to follow: the best one evaluated, or the mean, which is safer where values are noisy
    or the model is learned."""

    def check_samples(self, samples: int) -> None:
        """Raise InvalidInput for more elites than samples."""
        check_elites(samples, self.elites)

    init = staticmethod(fresh_start)
    shift = staticmethod(shift_start)

    def plan(
        self,
        score: Score,
        start: WarmStart,
        key: Array,
        *,
        samples: int,
        iterations: int,
        candidates: Array | None = None,
    ) -> PlanResult:
        state, history = cem(
            score,
            key,
            start.mean,
            self.std,
            samples=samples,
            elites=self.elites,
            iterations=iterations,
            smoothing=self.smoothing,
            candidates=candidates,
        )
        plan = state.best if self.follow == "best" else state.mean
        return PlanResult(
            plan, state.value, state.std, WarmStart(state.mean, start.kept_plans), history
        )
