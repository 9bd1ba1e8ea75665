"""Model-predictive path integral control, MPPI (Williams et al., 2017, "Information theoretic
MPC")."""

import jax
import jax.numpy as jnp

from etude.planning.sampling.cem import CEMState
from etude.planning.sampling.icem import colored_noise
from etude.planning.sampling.random_shooting import Score, evaluate_candidates, update_best
from etude.struct import replace
from etude.types import Array


def mppi(
    score: Score,
    key: Array,
    mean: Array,
    std: float | Array,
    *,
    samples: int,
    iterations: int,
    temperature: float | Array = 1.0,
    exponent: float | Array = 0.0,
    low: float | Array = -1.0,
    high: float | Array = 1.0,
) -> CEMState:
    """Draw `samples` plans around `mean`, and move it to their average, each weighed by how good it
    is.

        x ~ N(mean, std²),   mean ← Σ w x,   w ∝ exp((value − max value) / temperature)

    `mean` is [horizon, *action], in the box; `std`, which stays as it is, `low` and `high` are
    numbers or of that shape. Candidates beyond the box are clipped to it. `temperature`, in units
    of the value, says how much worse a plan may be and still count: near 0 the best is everything,
    at infinity all are alike. `exponent` smooths the noise in time, as in `colored_noise`; 0, the
    paper's, leaves it white. What the paper charges for leaving the mean (its γ) is not in the
    weights: whoever minds the effort says so in the score.
    """
    std = jnp.broadcast_to(jnp.asarray(std, mean.dtype), mean.shape)

    def improve(search, key):
        noise = colored_noise(key, (samples, *mean.shape), exponent, mean.dtype)
        candidates = jnp.clip(search.mean + std * noise, low, high)
        values = evaluate_candidates(score, candidates)
        moved = jnp.tensordot(softmax_weights(values, temperature), candidates, 1)
        return replace(update_best(search, candidates, values), mean=moved), None

    start = CEMState(mean, std, mean, jnp.full((), -jnp.inf, mean.dtype))
    return jax.lax.scan(improve, start, jax.random.split(key, iterations))[0]


def softmax_weights(values: Array, temperature: float | Array) -> Array:
    """The share of each of `values` [samples] in the average, [samples]: a softmax; where all are
    worth −∞, equal shares."""
    largest = jnp.finfo(values.dtype).max
    finite = jnp.clip(values, -largest, largest)
    return jax.nn.softmax((finite - finite.max()) / temperature)
