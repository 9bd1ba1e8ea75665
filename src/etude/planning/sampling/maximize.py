"""The sampling-based maximizers as values: random shooting, CEM and CMA-ES.

    maximize(score, key, shape, samples, iterations)

maximizes `score` over the box [-1, 1] with `samples` × `iterations` evaluations. It returns the
best candidate [*shape] and its value []. `score` takes candidates [samples, *shape] to values
[samples].
"""

import jax.numpy as jnp

from etude.planning.sampling.cem import cem
from etude.planning.sampling.cma_es import cma_es
from etude.planning.sampling.random_shooting import Score, random_shooting
from etude.struct import static, struct
from etude.types import Array


@struct
class RandomShooting:
    """The best of uniformly random candidates, all evaluated at once."""

    def maximize(
        self, score: Score, key: Array, shape: tuple[int, ...], samples: int, iterations: int
    ) -> tuple[Array, Array]:
        return random_shooting(score, key, shape, samples * iterations)


@struct
class CEM:
    """The cross-entropy method: a normal distribution, refit to the best samples.

    It starts from zero with half the width of the box as standard deviation, which puts a third of
    the first candidates on the boundary, where the best action often is.
    """

    elites: int = static(6, at_least=1)
    """Best samples to which each iteration refits."""

    def maximize(
        self, score: Score, key: Array, shape: tuple[int, ...], samples: int, iterations: int
    ) -> tuple[Array, Array]:
        """Raises InvalidInput for more elites than samples."""
        state = cem(
            score,
            key,
            jnp.zeros(shape),
            1.0,
            samples=samples,
            elites=self.elites,
            iterations=iterations,
        )
        return state.best, state.value


@struct
class CMAES:
    """CMA-ES: a normal distribution whose covariance adapts to the samples weighed by rank.

    It starts with three tenths of the width of the box as standard deviation (Hansen, 2016).
    """

    tag = "cma-es"

    def maximize(
        self, score: Score, key: Array, shape: tuple[int, ...], samples: int, iterations: int
    ) -> tuple[Array, Array]:
        """Raises InvalidInput for fewer than two samples."""
        result = cma_es(score, key, jnp.zeros(shape), 0.6, samples=samples, iterations=iterations)
        return result.best, result.value


Maximizer = RandomShooting | CEM | CMAES
