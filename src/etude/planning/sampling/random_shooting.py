"""Random shooting: the best of uniformly sampled candidates."""

import math

import jax
import jax.numpy as jnp

from etude.planning.protocol import PlanResult, Score, SearchHistory, WarmStart
from etude.planning.sampling.candidates import evaluate_candidates, fresh_start, shift_start
from etude.struct import struct
from etude.types import Array

UNIFORM_STD = 1 / math.sqrt(3)  # of the uniform distribution on [-1, 1]


@struct
class ShootingState:
    """The result of the search."""

    best: Array  # [*shape]: the best candidate
    value: Array  # []: its value


def random_shooting(
    score: Score,
    key: Array,
    shape: tuple[int, ...],
    *,
    samples: int,
    iterations: int = 1,
    candidates: Array | None = None,
    low: float | Array = -1.0,
    high: float | Array = 1.0,
) -> tuple[ShootingState, SearchHistory]:
    """Find the best of `samples` × `iterations` uniform candidates in the box [*shape].

    All are evaluated at once, and `candidates` [candidate, *shape] before them; an iteration of the
    history is the next `samples` of them. The bounds `low` and `high` are numbers or [*shape].
    """
    num_sampled = samples * iterations
    sampled = jax.random.uniform(key, (num_sampled, *shape), minval=low, maxval=high)
    given = sampled[:0] if candidates is None else candidates
    evaluated = jnp.concatenate([given, sampled])
    values = evaluate_candidates(score, evaluated)
    ends = len(given) + samples * jnp.arange(1, iterations + 1)  # of the iterations
    is_before_end = jnp.arange(len(values)) < ends[:, None]  # [iteration, candidate]
    best = jnp.where(is_before_end, values, -jnp.inf).argmax(1)
    history = SearchHistory(evaluated[best], values[best])
    return ShootingState(history.plans[-1], history.values[-1]), history


@struct
class RandomShooting:
    """Random shooting: the best of uniformly random plans, all evaluated at once."""

    def check_samples(self, samples: int) -> None:
        """Do nothing: any number of samples will do."""

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
        """The best plan; where the search starts makes no difference."""
        state, history = random_shooting(
            score,
            key,
            start.mean.shape,
            samples=samples,
            iterations=iterations,
            candidates=candidates,
        )
        spread = jnp.full_like(state.best, UNIFORM_STD)
        next_start = WarmStart(state.best, start.kept_plans)
        return PlanResult(state.best, state.value, spread, next_start, history)
