"""The maximisers under one name, for an algorithm to choose among."""
from typing import Literal

import jax
import jax.numpy as jnp

from etude.planning.cross_entropy import cross_entropy
from etude.planning.evolution import evolution
from etude.planning.random_shooting import Score, random_shooting

Array = jax.Array
Method = Literal["random_shooting", "cem", "evolution"]


def maximise(method: Method, score: Score, key: Array, shape: tuple[int, ...], samples: int, iterations: int,
             elites: int) -> tuple[Array, Array]:
    """The best candidate in [-1, 1] that `samples` × `iterations` evaluations find, [*shape], and its value, [].

    `score` takes candidates [samples, *shape] to [samples]. Random shooting draws them all at once. Cross entropy starts
    from the middle with half the box's width as standard deviation, which puts a third of the first candidates on its
    walls, where the best action often is, and refits to `elites` of each iteration's samples; evolution starts with three
    tenths (Hansen, 2016), and weighs its samples by rank.

    Raises InvalidInput for more elites than samples, or, in evolution, fewer than two samples.
    """
    middle = jnp.zeros(shape)
    if method == "cem":
        found = cross_entropy(score, key, middle, 1.0, samples=samples, elites=elites, iterations=iterations)
        return found.best, found.value
    if method == "evolution":
        fittest = evolution(score, key, middle, 0.6, samples=samples, iterations=iterations)
        return fittest.best, fittest.value
    return random_shooting(score, key, shape, samples * iterations)
