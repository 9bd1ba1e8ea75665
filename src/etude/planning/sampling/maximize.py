"""The sampling-based maximizers as values: random shooting, CEM and CMA-ES.

    maximize(score, key, shape, samples, iterations)

maximizes `score` over the box [-1, 1] with `samples` × `iterations` evaluations. It returns the
best candidate [*shape] and its value []. `score` takes candidates [samples, *shape] to values
[samples].
"""

import jax.numpy as jnp

from etude.errors import InvalidInput
from etude.planning.sampling.cem import cem, check_elites
from etude.planning.sampling.cma_es import cma_es
from etude.planning.sampling.random_shooting import Score, random_shooting
from etude.struct import static, struct
from etude.types import Array


@struct
class RandomShooting:
    """The best of uniformly random candidates, all evaluated at once."""

    def check_samples(self, samples: int) -> None:
        """Do nothing: any number of samples will do."""

    def maximize(
        self, score: Score, key: Array, shape: tuple[int, ...], samples: int, iterations: int
    ) -> tuple[Array, Array]:
        return random_shooting(score, key, shape, samples * iterations)


@struct
class CEM:
    """The cross-entropy method: a normal distribution, refit to the best samples.

    It starts from zero with half the width of the box as standard deviation, which puts a third of
    the elements of the first candidates on a bound, where that of the best action often is.
    """

    elites: int = static(6, at_least=1)
    """Best samples to which each iteration refits."""

    def check_samples(self, samples: int) -> None:
        """Raise InvalidInput for more elites than samples."""
        check_elites(samples, self.elites)

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

    def check_samples(self, samples: int) -> None:
        """Raise InvalidInput for fewer than two samples, among which there is no rank."""
        if samples < 2:
            raise InvalidInput(f"samples is {samples}; CMA-ES needs at least 2")

    def maximize(
        self, score: Score, key: Array, shape: tuple[int, ...], samples: int, iterations: int
    ) -> tuple[Array, Array]:
        """Raises InvalidInput for fewer than two samples."""
        result = cma_es(score, key, jnp.zeros(shape), 0.6, samples=samples, iterations=iterations)
        return result.best, result.value


Maximizer = RandomShooting | CEM | CMAES
