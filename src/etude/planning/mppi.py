"""Model-predictive path integral control, MPPI (Williams et al., 2017, "Information theoretic MPC"; notes, lecture 10)."""
import jax
import jax.numpy as jnp

from etude.planning.cross_entropy import Search
from etude.planning.icem import coloured_noise
from etude.planning.random_shooting import Score, judged, remembered
from etude.struct import replace

Array = jax.Array


def mppi(score: Score, key: Array, mean: Array, std: float | Array, *, samples: int, iterations: int,
         temperature: float | Array = 1.0, exponent: float | Array = 0.0, low: float | Array = -1.0,
         high: float | Array = 1.0) -> Search:
    """Draw `samples` plans around `mean`, and move it to their average, each weighed by how good it is.

        x ~ N(mean, std²),   mean ← Σ w x,   w ∝ exp((value − max value) / temperature)

    `mean` is [horizon, *action], in the box; `std`, which stays as it is, `low` and `high` are numbers or of that shape.
    Candidates beyond the box are clipped to it. `temperature`, in units of the value, says how much worse a plan may be and
    still count: near 0 the best is everything, at infinity all are alike. `exponent` smooths the noise in time, as in
    `coloured_noise`; 0, the paper's, leaves it white. What the paper charges for leaving the mean (its γ) is not in the
    weights: whoever minds the effort says so in the score.
    """
    std = jnp.broadcast_to(jnp.asarray(std, mean.dtype), mean.shape)

    def improve(search, key):
        noise = coloured_noise(key, (samples, *mean.shape), exponent, mean.dtype)
        candidates = jnp.clip(search.mean + std * noise, low, high)
        values = judged(score, candidates)
        moved = jnp.tensordot(weights(values, temperature), candidates, 1)
        return replace(remembered(search, candidates, values), mean=moved), None
    start = Search(mean, std, mean, jnp.full((), -jnp.inf, mean.dtype))
    return jax.lax.scan(improve, start, jax.random.split(key, iterations))[0]


def weights(values: Array, temperature: float | Array) -> Array:
    """The share of each of `values` [samples] in the average, [samples]: a softmax; where all are worth −∞, equal shares."""
    largest = jnp.finfo(values.dtype).max
    finite = jnp.clip(values, -largest, largest)
    return jax.nn.softmax((finite - finite.max()) / temperature)
