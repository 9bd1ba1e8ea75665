"""Covariance matrix adaptation evolution strategy, CMA-ES (Hansen, 2016).

Equations and default parameters, negative weights included (table 1), are those of "The CMA
evolution strategy: a tutorial", edition of 2023.
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from etude.errors import InvalidInput
from etude.planning.protocol import PlanResult, Score, SearchHistory, WarmStart
from etude.planning.sampling.candidates import (
    evaluate_candidates,
    fresh_start,
    shift_start,
    update_best,
)
from etude.struct import replace, static, struct, traced
from etude.types import Array


class CMAESParameters(NamedTuple):
    """Default parameters for λ samples and n dimensions (table 1)."""

    # w_i by rank i, best first, [samples]; those of the better half are positive and sum to 1
    weights: np.ndarray
    mu_eff: float  # μ_eff: variance-effective selection mass, (Σ w)² / Σ w² of the positive w
    rank_one_rate: float  # c₁: learning rate of the rank-one update of C
    rank_mu_rate: float  # c_μ: learning rate of the rank-μ update of C
    covariance_path_rate: float  # c_c: decay rate of the evolution path p_c
    step_size_rate: float  # c_σ: decay rate of the conjugate evolution path p_σ
    step_size_damping: float  # d_σ: damping of the step size update
    expected_norm: float  # E|N(0, I)|


@struct
class CMAESState:
    """State of the search in n dimensions, the candidate's shape flattened."""

    mean: Array  # m, [n]; beyond the box it stands for its mirror image
    step_size: Array  # σ, []
    covariance: Array  # C, [n, n]
    step_size_path: Array  # p_σ, [n]: conjugate evolution path, whitened steps of the mean
    covariance_path: Array  # p_c, [n]: evolution path, steps of the mean
    best: Array  # [*shape]: the best candidate so far
    value: Array  # []: its value


def cma_es(
    score: Score,
    key: Array,
    mean: Array,
    std: float | Array,
    *,
    samples: int,
    iterations: int,
    candidates: Array | None = None,
    low: float | Array = -1.0,
    high: float | Array = 1.0,
) -> tuple[CMAESState, SearchHistory]:
    """Sample candidates from a normal distribution and adapt its mean, step size and covariance.

        x ~ N(m, σ² C)

    `mean` is [*shape], in the box; `std`, `low` and `high` are numbers or [*shape]. The box is
    finite and its boundary is a mirror: a candidate beyond it has the value of its mirror image,
    while the distribution is unbounded. `candidates` [candidate, *shape] are evaluated beside the
    sampled ones in every iteration; they can be the best one, but do not change the distribution.

    Returns the last state and the best candidate after each iteration.

    Raises InvalidInput for fewer than two samples.
    """
    if samples < 2:
        raise InvalidInput(f"samples is {samples}; CMA-ES needs at least 2")
    parameters = default_parameters(samples, mean.size)
    low, high = (jnp.broadcast_to(bound, mean.shape) for bound in (low, high))

    def iterate(state, key_and_generation):
        key, generation = key_and_generation
        z = jax.random.normal(key, (samples, mean.size), mean.dtype)
        B, D = eigendecompose(state.covariance)
        y = z * D @ B.T  # y = B D z
        sampled = reflect_into_box(
            (state.mean + state.step_size * y).reshape(samples, *mean.shape), low, high
        )
        values = evaluate_candidates(score, sampled)
        order = jnp.argsort(-values)
        state = update_distribution(state, parameters, y[order], z[order] @ B.T, generation)
        state = update_best(state, sampled, values)
        if candidates is not None:
            given = jnp.asarray(candidates)
            state = update_best(state, given, evaluate_candidates(score, given))
        return state, SearchHistory(state.best, state.value)

    zeros = jnp.zeros(mean.size, mean.dtype)
    variance = jnp.broadcast_to(jnp.asarray(std, mean.dtype), mean.shape).ravel() ** 2
    one = jnp.ones((), mean.dtype)
    state = CMAESState(mean.ravel(), one, jnp.diag(variance), zeros, zeros, mean, -jnp.inf * one)
    return jax.lax.scan(iterate, state, (jax.random.split(key, iterations), jnp.arange(iterations)))


def update_distribution(
    state: CMAESState, p: CMAESParameters, y: Array, whitened: Array, generation: Array
) -> CMAESState:
    """Adapt the distribution to candidates m + σ y, best first.

    Steps `y` and `whitened` steps C^(-1/2) y are [samples, n].
    """
    n, weights = y.shape[1], jnp.asarray(p.weights, y.dtype)
    positive_weights = jnp.maximum(weights, 0)
    mean_step = positive_weights @ y  # ⟨y⟩
    mean = state.mean + state.step_size * mean_step
    step_size_path = (1 - p.step_size_rate) * state.step_size_path + math.sqrt(
        p.step_size_rate * (2 - p.step_size_rate) * p.mu_eff
    ) * positive_weights @ whitened
    path_norm = jnp.linalg.norm(step_size_path)
    step_size = state.step_size * jnp.exp(
        p.step_size_rate / p.step_size_damping * (path_norm / p.expected_norm - 1)
    )

    # p_σ starts at zero, so it is shorter in the first generations
    bias_correction = jnp.sqrt(1 - (1 - p.step_size_rate) ** (2 * (generation + 1)))
    # h_σ is 0 while the step size grows fast: it stalls the update of p_c
    h_sigma = path_norm < bias_correction * (1.4 + 2 / (n + 1)) * p.expected_norm
    covariance_path = (1 - p.covariance_path_rate) * state.covariance_path + h_sigma * math.sqrt(
        p.covariance_path_rate * (2 - p.covariance_path_rate) * p.mu_eff
    ) * mean_step
    squared_norm = jnp.maximum((whitened**2).sum(-1), 1e-30)
    # negative weights are scaled so that C stays positive definite
    scaled_weights = jnp.where(weights < 0, weights * n / squared_norm, weights)
    # δ(h_σ): compensates for the variance that p_c loses where h_σ is 0
    delta = (1 - h_sigma) * p.covariance_path_rate * (2 - p.covariance_path_rate)
    covariance = (
        (1 + p.rank_one_rate * (delta - 1) - p.rank_mu_rate * weights.sum()) * state.covariance
        + p.rank_one_rate * jnp.outer(covariance_path, covariance_path)
        + p.rank_mu_rate * (y.T * scaled_weights) @ y
    )
    return replace(
        state,
        mean=mean,
        step_size=step_size,
        covariance=(covariance + covariance.T) / 2,
        step_size_path=step_size_path,
        covariance_path=covariance_path,
    )


def eigendecompose(covariance: Array) -> tuple[Array, Array]:
    """Factor C = B D² Bᵀ: eigenvectors B [n, n] in columns, standard deviations D [n]."""
    eigenvalues, B = jnp.linalg.eigh(covariance)
    # smaller eigenvalues are below the precision of float32
    return B, jnp.sqrt(jnp.maximum(eigenvalues, 1e-7 * eigenvalues[-1]))


def reflect_into_box(x: Array, low: float | Array, high: float | Array) -> Array:
    """Map x into the box by reflection at `low` and `high`."""
    width = high - low
    offset = jnp.abs((x - low + width) % (2 * width) - width)  # a triangle wave
    return jnp.clip(low + offset, low, high)  # against rounding


def default_parameters(samples: int, n: int) -> CMAESParameters:
    """Return the tutorial's default parameters (table 1)."""
    log_rank = np.log((samples + 1) / 2) - np.log(np.arange(1, samples + 1))
    positive, negative = log_rank[log_rank > 0], log_rank[log_rank < 0]
    mu_eff, mu_eff_negative = (float(w.sum() ** 2 / (w**2).sum()) for w in (positive, negative))
    rank_one_rate = 2 / ((n + 1.3) ** 2 + mu_eff)
    rank_mu_rate = min(
        1 - rank_one_rate, 2 * (0.25 + mu_eff + 1 / mu_eff - 2) / ((n + 2) ** 2 + mu_eff)
    )
    negative_sum = min(
        1 + rank_one_rate / rank_mu_rate,
        1 + 2 * mu_eff_negative / (mu_eff + 2),
        (1 - rank_one_rate - rank_mu_rate) / (n * rank_mu_rate),
    )
    weights = np.where(
        log_rank >= 0, log_rank / positive.sum(), negative_sum * log_rank / -negative.sum()
    )
    step_size_rate = (mu_eff + 2) / (n + mu_eff + 5)
    damping = 1 + 2 * max(0, math.sqrt((mu_eff - 1) / (n + 1)) - 1) + step_size_rate
    covariance_path_rate = (4 + mu_eff / n) / (n + 4 + 2 * mu_eff / n)
    expected_norm = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))
    return CMAESParameters(
        weights,
        mu_eff,
        rank_one_rate,
        rank_mu_rate,
        covariance_path_rate,
        step_size_rate,
        damping,
        expected_norm,
    )


@struct
class CMAES:
    """CMA-ES: a normal distribution whose covariance adapts to the plans weighed by rank."""

    std: float = traced(0.6, above=0)
    """Initial standard deviation of the plans, in the box [-1, 1] (three tenths of its width:
    Hansen, 2016)."""
    follow: Literal["best", "mean"] = static("best")
    """Plan to follow: the best one evaluated, or the mean, which is safer where values are noisy
    or the model is learned."""

    tag = "cma-es"

    def check_samples(self, samples: int) -> None:
        """Raise InvalidInput for fewer than two samples, among which there is no rank."""
        if samples < 2:
            raise InvalidInput(f"samples is {samples}; CMA-ES needs at least 2")

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
        state, history = cma_es(
            score,
            key,
            start.mean,
            self.std,
            samples=samples,
            iterations=iterations,
            candidates=candidates,
        )
        shape = start.mean.shape
        mean = reflect_into_box(state.mean.reshape(shape), -1.0, 1.0)
        std = state.step_size * jnp.sqrt(jnp.diag(state.covariance)).reshape(shape)
        plan = state.best if self.follow == "best" else mean
        return PlanResult(plan, state.value, std, WarmStart(mean, start.kept_plans), history)
