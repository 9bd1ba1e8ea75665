"""Model-predictive path integral control, MPPI.

Williams et al., "Information theoretic MPC for model-based reinforcement learning", 2017.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from etude.planning.protocol import PlanResult, Score, SearchHistory, WarmStart
from etude.planning.sampling.candidates import (
    evaluate_candidates,
    fresh_start,
    join,
    shift_start,
    update_best,
)
from etude.planning.sampling.cem import CEMState
from etude.planning.sampling.icem import colored_noise
from etude.struct import replace, static, struct, traced
from etude.types import Array


def mppi(
    score: Score,
    key: Array,
    mean: Array,
    std: float | Array,
    *,
    samples: int,
    iterations: int,
    temperature: float | Array = 0.05,
    exponent: float | Array = 0.0,
    candidates: Array | None = None,
    low: float | Array = -1.0,
    high: float | Array = 1.0,
) -> tuple[CEMState, SearchHistory]:
    """Move `mean` to the average of sampled plans, weighted by a softmax of their values.

        x ~ N(mean, std²),   mean ← Σ w x,   w ∝ exp((value − best) / (temperature · spread))

    `mean` is [horizon, *action], in the box; `std`, which is constant, `low` and `high` are numbers
    or of that shape. Candidates beyond the box are clipped to it. The spread is the iteration's
    best value − its mean value, so that a `temperature` fits rewards of every scale (in the paper
    the spread is 1): near 0 the best plan has all the weight, at infinity all weights are equal.
    `exponent` correlates the noise in time, as in `colored_noise`; 0, as in the paper, is
    white noise. The weights leave out the paper's control cost (its γ): put the cost of control
    into the score.
    """
    std = jnp.broadcast_to(jnp.asarray(std, mean.dtype), mean.shape)

    def iterate(state, key):
        noise = colored_noise(key, (samples, *mean.shape), exponent, mean.dtype)
        sampled = jnp.clip(state.mean + std * noise, low, high)
        evaluated = join(sampled, candidates)
        values = evaluate_candidates(score, evaluated)
        new_mean = jnp.tensordot(softmax_weights(values, temperature), evaluated, 1)
        state = replace(update_best(state, evaluated, values), mean=new_mean)
        return state, SearchHistory(state.best, state.value)

    state = CEMState(mean, std, mean, jnp.full((), -jnp.inf, mean.dtype))
    return jax.lax.scan(iterate, state, jax.random.split(key, iterations))


def softmax_weights(values: Array, temperature: float | Array) -> Array:
    """Softmax weights of `values` [samples], the temperature in units of best − mean.

    A value of −inf has the weight 0 and does not count for the mean. Where all are −inf, or all are
    equal, the weights are equal.
    """
    least, is_finite = jnp.finfo(values.dtype).min, values > -jnp.inf
    best = jnp.maximum(values.max(), least)
    spread = jnp.where(is_finite, best - values, 0).sum() / jnp.maximum(is_finite.sum(), 1)
    scale = temperature * jnp.where(spread > 0, spread, 1)
    return jax.nn.softmax((jnp.maximum(values, least) - best) / scale)


@struct
class MPPI:
    """MPPI: the average of the plans, weighted by a softmax of their values."""

    std: float = traced(0.5, above=0)
    """Initial standard deviation of the plans, in the box [-1, 1]; it stays the same."""
    temperature: float = traced(0.05, above=0)
    """Temperature of the weights, in units of an iteration's best value − its mean value."""
    noise_exponent: float = traced(2.0, at_least=0)
    """Exponent β of the noise, with power f^-β along time; 0, as in the paper, is white noise."""
    follow: Literal["best", "mean"] = static("mean")
    """Plan to follow: the best one evaluated, or the mean, which is safer where values are noisy
    or the model is learned."""

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
        state, history = mppi(
            score,
            key,
            start.mean,
            self.std,
            samples=samples,
            iterations=iterations,
            temperature=self.temperature,
            exponent=self.noise_exponent,
            candidates=candidates,
        )
        plan = state.best if self.follow == "best" else state.mean
        return PlanResult(
            plan, state.value, state.std, WarmStart(state.mean, start.kept_plans), history
        )
