"""One function for the sampling-based maximizers: random shooting, CEM and CMA-ES."""

from typing import Literal

import jax.numpy as jnp

from etude.planning.sampling.cem import cem
from etude.planning.sampling.cma_es import cma_es
from etude.planning.sampling.random_shooting import Score, random_shooting
from etude.types import Array

Maximizer = Literal["random_shooting", "cem", "cma_es"]


def maximize(
    method: Maximizer,
    score: Score,
    key: Array,
    shape: tuple[int, ...],
    samples: int,
    iterations: int,
    elites: int,
) -> tuple[Array, Array]:
    """Maximize `score` over the box [-1, 1] with `samples` × `iterations` evaluations.

    Returns the best candidate [*shape] and its value []. `score` takes candidates [samples, *shape]
    to values [samples]. Random shooting evaluates all samples at once. CEM starts from zero with
    half the width of the box as standard deviation, which puts a third of the first candidates on
    the boundary, where the best action often is, and refits to `elites` samples of each iteration.
    CMA-ES starts with three tenths of the width (Hansen, 2016) and weighs its samples by rank.

    Raises InvalidInput for more elites than samples and, in CMA-ES, for fewer than two samples.
    """
    mean = jnp.zeros(shape)
    if method == "cem":
        state = cem(score, key, mean, 1.0, samples=samples, elites=elites, iterations=iterations)
        return state.best, state.value
    if method == "cma_es":
        result = cma_es(score, key, mean, 0.6, samples=samples, iterations=iterations)
        return result.best, result.value
    return random_shooting(score, key, shape, samples * iterations)
