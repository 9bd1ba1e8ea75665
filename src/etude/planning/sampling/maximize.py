"""The maximizers under one name, for an algorithm to choose among."""

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
    """The best candidate in [-1, 1] that `samples` × `iterations` evaluations find, [*shape], and
    its value, [].

    `score` takes candidates [samples, *shape] to [samples]. Random shooting draws them all at once.
    Cross entropy starts from the middle with half the box's width as standard deviation, which puts
    a third of the first candidates on its walls, where the best action often is, and refits to
    `elites` of each iteration's samples; evolution starts with three tenths (Hansen, 2016), and
    weighs its samples by rank.

    Raises InvalidInput for more elites than samples, or, in evolution, fewer than two samples.
    """
    middle = jnp.zeros(shape)
    if method == "cem":
        found = cem(score, key, middle, 1.0, samples=samples, elites=elites, iterations=iterations)
        return found.best, found.value
    if method == "cma_es":
        fittest = cma_es(score, key, middle, 0.6, samples=samples, iterations=iterations)
        return fittest.best, fittest.value
    return random_shooting(score, key, shape, samples * iterations)
