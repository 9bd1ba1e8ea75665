"""Model-predictive path integral control, MPPI.

Williams et al., "Information theoretic MPC for model-based reinforcement learning", 2017.
"""

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
    """Move `mean` to the average of sampled plans, weighted by a softmax of their values.

        x ~ N(mean, std²),   mean ← Σ w x,   w ∝ exp((value − max value) / temperature)

    `mean` is [horizon, *action], in the box; `std`, which is constant, `low` and `high` are numbers
    or of that shape. Candidates beyond the box are clipped to it. `temperature`, in units of the
    value, sets how sharply the weights prefer good plans: near 0 the best plan has all the weight,
    at infinity all weights are equal. `exponent` correlates the noise in time, as in
    `colored_noise`; 0, as in the paper, is white noise. The weights leave out the paper's control
    cost (its γ): put the cost of control into the score.
    """
    std = jnp.broadcast_to(jnp.asarray(std, mean.dtype), mean.shape)

    def iterate(state, key):
        noise = colored_noise(key, (samples, *mean.shape), exponent, mean.dtype)
        candidates = jnp.clip(state.mean + std * noise, low, high)
        values = evaluate_candidates(score, candidates)
        new_mean = jnp.tensordot(softmax_weights(values, temperature), candidates, 1)
        return replace(update_best(state, candidates, values), mean=new_mean), None

    state = CEMState(mean, std, mean, jnp.full((), -jnp.inf, mean.dtype))
    return jax.lax.scan(iterate, state, jax.random.split(key, iterations))[0]


def softmax_weights(values: Array, temperature: float | Array) -> Array:
    """Softmax weights of `values` [samples]; equal weights where all values are −inf."""
    largest = jnp.finfo(values.dtype).max
    finite = jnp.clip(values, -largest, largest)
    return jax.nn.softmax((finite - finite.max()) / temperature)
