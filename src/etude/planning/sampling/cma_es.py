"""Evolution by covariance matrix adaptation, CMA-ES (Hansen, 2016, "The CMA evolution strategy: a
tutorial").

Equations are the tutorial's, edition of 2023, with its default parameters, negative weights among
them (table 1).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from etude.errors import InvalidInput
from etude.planning.sampling.random_shooting import Score, evaluate_candidates, update_best
from etude.struct import replace, struct
from etude.types import Array


class CMAESParameters(NamedTuple):
    """What the tutorial sets by the number of samples λ and of elements n (table 1)."""

    # w of each rank, best first, [samples]; those of the better half are positive, with sum 1
    weights: np.ndarray
    mass: float  # μ_eff: how many parents of equal weight would vary as these do
    rank_one: float  # c₁: share of the evolution path in the covariance
    rank_mu: float  # c_μ: share of the candidates
    path_rate: float  # c_c: of the evolution path
    step_rate: float  # c_σ: of the step size's path
    step_damping: float  # d_σ
    norm: float  # E|N(0, I)|


@struct
class CMAESState:
    """Where the search stands, n elements in one axis; `best` alone is [*shape]."""

    mean: Array  # m, [n]; beyond the box it stands for its mirror image
    step: Array  # σ, the overall scale
    covariance: Array  # C, [n, n]
    step_path: Array  # p_σ, [n]: recent moves of the mean, in units of their spread
    path: Array  # p_c, [n]: recent moves of the mean
    best: Array  # the best candidate so far
    value: Array  # what it is worth


def cma_es(
    score: Score,
    key: Array,
    mean: Array,
    std: float | Array,
    *,
    samples: int,
    iterations: int,
    low: float | Array = -1.0,
    high: float | Array = 1.0,
) -> CMAESState:
    """Draw `samples` candidates from a normal distribution, and move its mean, its scale and its
    whole covariance to the better.

        x ~ N(m, σ² C)

    `mean` is [*shape], in the box; `std`, `low` and `high` are numbers or [*shape]. The box is
    finite, and its walls are mirrors: a candidate beyond them is judged as its mirror image, while
    the search goes on as if there were no walls.

    Raises InvalidInput for fewer than two samples.
    """
    if samples < 2:
        raise InvalidInput(f"samples is {samples}; evolution compares at least 2")
    parameters = default_parameters(samples, mean.size)
    low, high = (jnp.broadcast_to(bound, mean.shape) for bound in (low, high))

    def improve(search, step):
        key, generation = step
        noise = jax.random.normal(key, (samples, mean.size), mean.dtype)  # z
        axes, deviations = eigendecompose(search.covariance)
        moves = noise * deviations @ axes.T  # y = B D z
        candidates = reflect_into_box(
            (search.mean + search.step * moves).reshape(samples, *mean.shape), low, high
        )
        values = evaluate_candidates(score, candidates)
        order = jnp.argsort(-values)
        search = update_distribution(
            search, parameters, moves[order], noise[order] @ axes.T, generation
        )
        return update_best(search, candidates, values), None

    nothing = jnp.zeros(mean.size, mean.dtype)
    variance = jnp.broadcast_to(jnp.asarray(std, mean.dtype), mean.shape).ravel() ** 2
    one = jnp.ones((), mean.dtype)
    start = CMAESState(
        mean.ravel(), one, jnp.diag(variance), nothing, nothing, mean, -jnp.inf * one
    )
    return jax.lax.scan(
        improve, start, (jax.random.split(key, iterations), jnp.arange(iterations))
    )[0]


def update_distribution(
    search: CMAESState, p: CMAESParameters, moves: Array, whitened: Array, generation: Array
) -> CMAESState:
    """The distribution after candidates m + σ y, best first; `moves` y and `whitened` C^(-1/2) y
    are [samples, n]."""
    n, weights = moves.shape[1], jnp.asarray(p.weights, moves.dtype)
    positive = jnp.maximum(weights, 0)
    move = positive @ moves  # ⟨y⟩
    mean = search.mean + search.step * move
    step_path = (1 - p.step_rate) * search.step_path + math.sqrt(
        p.step_rate * (2 - p.step_rate) * p.mass
    ) * positive @ whitened
    length = jnp.linalg.norm(step_path)
    step = search.step * jnp.exp(p.step_rate / p.step_damping * (length / p.norm - 1))

    settled = jnp.sqrt(1 - (1 - p.step_rate) ** (2 * (generation + 1)))  # the path began at zero
    # h_σ: no path while the step grows fast
    steady = length < settled * (1.4 + 2 / (n + 1)) * p.norm
    path = (1 - p.path_rate) * search.path + steady * math.sqrt(
        p.path_rate * (2 - p.path_rate) * p.mass
    ) * move
    spread = jnp.maximum((whitened**2).sum(-1), 1e-30)
    # so that C stays positive definite
    scaled = jnp.where(weights < 0, weights * n / spread, weights)
    missed = (1 - steady) * p.path_rate * (2 - p.path_rate)  # δ(h_σ): what the path did not take
    covariance = (
        (1 + p.rank_one * (missed - 1) - p.rank_mu * weights.sum()) * search.covariance
        + p.rank_one * jnp.outer(path, path)
        + p.rank_mu * (moves.T * scaled) @ moves
    )
    return replace(
        search,
        mean=mean,
        step=step,
        covariance=(covariance + covariance.T) / 2,
        step_path=step_path,
        path=path,
    )


def eigendecompose(covariance: Array) -> tuple[Array, Array]:
    """C = B D² Bᵀ as its axes B [n, n], in columns, and the standard deviations D [n] along
    them."""
    variances, axes = jnp.linalg.eigh(covariance)
    # below which float32 tells nothing
    return axes, jnp.sqrt(jnp.maximum(variances, 1e-7 * variances[-1]))


def reflect_into_box(x: Array, low: Array, high: Array) -> Array:
    """x in the box between mirrors at `low` and `high`."""
    width = high - low
    inside = jnp.abs((x - low + width) % (2 * width) - width)  # a triangle wave
    return jnp.clip(low + inside, low, high)  # rounding


def default_parameters(samples: int, n: int) -> CMAESParameters:
    """The tutorial's default parameters (table 1)."""
    rank = np.log((samples + 1) / 2) - np.log(np.arange(1, samples + 1))
    better, worse = rank[rank > 0], rank[rank < 0]
    mass, other_mass = (float(part.sum() ** 2 / (part**2).sum()) for part in (better, worse))
    rank_one = 2 / ((n + 1.3) ** 2 + mass)
    rank_mu = min(1 - rank_one, 2 * (0.25 + mass + 1 / mass - 2) / ((n + 2) ** 2 + mass))
    negative = min(
        1 + rank_one / rank_mu,
        1 + 2 * other_mass / (mass + 2),
        (1 - rank_one - rank_mu) / (n * rank_mu),
    )
    weights = np.where(rank >= 0, rank / better.sum(), negative * rank / -worse.sum())
    step_rate = (mass + 2) / (n + mass + 5)
    damping = 1 + 2 * max(0, math.sqrt((mass - 1) / (n + 1)) - 1) + step_rate
    path_rate = (4 + mass / n) / (n + 4 + 2 * mass / n)
    norm = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))
    return CMAESParameters(weights, mass, rank_one, rank_mu, path_rate, step_rate, damping, norm)
