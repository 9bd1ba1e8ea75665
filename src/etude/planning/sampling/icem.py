"""The improved cross-entropy method, iCEM (Pinneri et al., 2020).

"Sample-efficient cross-entropy method for real-time planning" is the source of every default here
except β, the noise exponent, which depends on the task.
"""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from etude.planning.protocol import PlanResult, Score, SearchHistory, WarmStart
from etude.planning.sampling.candidates import evaluate_candidates, fresh_start, join, shift_start
from etude.planning.sampling.cem import check_elites, refit_to_elites
from etude.struct import replace, static, struct, traced
from etude.types import Array

POPULATION_DECAY = 1.25  # ratio of the population sizes of two successive iterations (γ)
KEPT_FRACTION = 0.3  # fraction of the elites that the next iteration evaluates again (ξ)


@struct
class ICEMState:
    """State of the search: a diagonal normal distribution, the best plan, and elites to keep."""

    mean: Array  # [horizon, *action]: mean of the sampling distribution
    std: Array  # [horizon, *action]: standard deviation of each element
    best: Array  # [horizon, *action]: the best plan so far
    value: Array  # []: its value
    kept_plans: Array  # [kept, horizon, *action]: elites that are evaluated again, best first


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
    kept_plans: Array | None = None,
    candidates: Array | None = None,
    low: float | Array = -1.0,
    high: float | Array = 1.0,
) -> tuple[ICEMState, SearchHistory]:
    """Run the cross-entropy method on plans with the four changes that let few samples suffice.

    1. The noise is correlated in time, by the `exponent` of `colored_noise` (in the paper from 0.25
       for running to 3.5 for reaching).
    2. The population shrinks with each iteration, from `samples` on.
    3. The best elites are evaluated again in the next iteration, in the first one the `kept_plans`
       of an earlier search.
    4. The mean itself is evaluated too in the last iteration.

    Returns the last state, whose `kept_plans` [num_kept(elites), horizon, *action] the next search
    can evaluate again, and the best plan after each iteration. `mean` is [horizon, *action]; the
    other arguments are those of `cem`.

    Raises InvalidInput for more elites than samples.
    """
    check_elites(samples, elites)
    std = jnp.broadcast_to(jnp.asarray(std, mean.dtype), mean.shape)
    kept_plans = mean[None][:0] if kept_plans is None else kept_plans
    state = ICEMState(mean, std, mean, jnp.full((), -jnp.inf, mean.dtype), kept_plans)

    def iterate(state, key, population, is_last=False):
        noise = colored_noise(key, (population, *mean.shape), exponent, mean.dtype)
        sampled_plans = jnp.clip(state.mean + state.std * noise, low, high)
        mean_plan = state.mean[None] if is_last else mean[None][:0]
        own_plans = jnp.concatenate([sampled_plans, state.kept_plans, mean_plan])
        evaluated = join(own_plans, candidates)
        values = evaluate_candidates(score, evaluated)
        state = refit_to_elites(state, evaluated, values, elites, smoothing)
        # of its own plans, for the given ones are evaluated in each iteration anyway
        elite_plans = own_plans[jax.lax.top_k(values[: len(own_plans)], num_kept(elites))[1]]
        return replace(state, kept_plans=elite_plans), SearchHistory(state.best, state.value)

    # the iterations whose population differs from the last one's are written out
    keys, history = jax.random.split(key, iterations), []
    populations = [population_size(samples, elites, i) for i in range(iterations)]
    num_written_out = max(1, populations.index(populations[-1]))
    for i in range(min(num_written_out, iterations - 1)):
        state, entry = iterate(state, keys[i], populations[i])
        history.append(jax.tree.map(lambda x: x[None], entry))
    if (rest := keys[num_written_out:-1]).size:
        state, entries = jax.lax.scan(partial(iterate, population=populations[-1]), state, rest)
        history.append(entries)
    state, entry = iterate(state, keys[-1], populations[-1], is_last=True)
    history.append(jax.tree.map(lambda x: x[None], entry))
    return state, jax.tree.map(lambda *entries: jnp.concatenate(entries), *history)


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


def num_kept(elites: int) -> int:
    """Return the number of elites that the next iteration evaluates again."""
    return max(1, round(KEPT_FRACTION * elites))


@struct
class ICEM:
    """iCEM: CEM with noise correlated in time, ever fewer samples and elites that are kept."""

    elites: int = static(10, at_least=1)
    """Best plans to which each iteration refits (10: Pinneri et al., 2020)."""
    std: float = traced(0.5, above=0)
    """Initial standard deviation of the plans, in the box [-1, 1] (0.5: Pinneri et al.)."""
    smoothing: float = traced(0.1, at_least=0, at_most=1)
    """Weight of the old mean and standard deviation in each refit (0.1: Pinneri et al.)."""
    noise_exponent: float = traced(2.0, at_least=0)
    """Exponent β of the noise, with power f^-β along time; 0 is white noise."""
    follow: Literal["best", "mean"] = static("best")
    """Plan to follow: the best one evaluated, or the mean, which is safer where values are noisy
    or the model is learned."""

    def check_samples(self, samples: int) -> None:
        """Raise InvalidInput for more elites than samples."""
        check_elites(samples, self.elites)

    shift = staticmethod(shift_start)

    def init(self, mean: Array) -> WarmStart:
        return fresh_start(mean, num_kept(self.elites))

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
        state, history = icem(
            score,
            key,
            start.mean,
            self.std,
            samples=samples,
            elites=self.elites,
            iterations=iterations,
            exponent=self.noise_exponent,
            smoothing=self.smoothing,
            kept_plans=start.kept_plans,
            candidates=candidates,
        )
        plan = state.best if self.follow == "best" else state.mean
        return PlanResult(
            plan, state.value, state.std, WarmStart(state.mean, state.kept_plans), history
        )
