"""A network whose output is a normal distribution with a variance of its own for each input.

    ℓ = ½ Σ_d [ (y − μ)² e^(−v) + v + log 2π ],    v = log σ²

(Nix & Weigend, 1994; with soft bounds of v, Chua et al., 2018.)
"""

import math

import jax
import jax.numpy as jnp

from etude.nn.networks import MLP
from etude.struct import static, struct
from etude.types import Array

LOG_2PI = math.log(2 * math.pi)
# where the bounds of the log-variance start, and what each costs in the loss (Chua et al., 2018)
MAX_LOG_VARIANCE, MIN_LOG_VARIANCE, BOUND_PENALTY = 0.5, -10.0, 0.01


@struct
class Gaussian:
    """A diagonal normal distribution over targets, [..., target]."""

    mean: Array
    variance: Array  # 0 of a network that predicts no noise


@struct
class LogVarianceBounds:
    """The learned bounds of the log-variance, each [target]."""

    high: Array
    low: Array

    def variance(self, v: Array) -> Array:
        """σ² = e^low + e^high sigmoid(v − high): e^v between the bounds, which it nears smoothly.

        That is e to the power of low + softplus(high − softplus(high − v) − low), without a
        logarithm.
        """
        return jnp.exp(self.low) + jnp.exp(self.high) * jax.nn.sigmoid(v - self.high)

    def penalty(self) -> Array:
        """What draws the bounds together, []: the upper one matters far from the data."""
        return BOUND_PENALTY * (self.high.sum() - self.low.sum())


@struct
class GaussianNetwork:
    """An MLP of means and log-variances: [..., input] to a Gaussian [..., target]."""

    mlp: MLP
    bounds: LogVarianceBounds
    has_noise: bool = static(True)  # False: it predicts means alone

    def __call__(self, x: Array) -> Gaussian:
        if not self.has_noise:
            mean = self.mlp(x)
            return Gaussian(mean, jnp.zeros_like(mean))
        mean, v = jnp.split(self.mlp(x), 2, -1)
        return Gaussian(mean, self.bounds.variance(v))


def initial_bounds(targets: int) -> LogVarianceBounds:
    """The bounds before training, of standardized targets."""
    return LogVarianceBounds(
        jnp.full(targets, MAX_LOG_VARIANCE), jnp.full(targets, MIN_LOG_VARIANCE)
    )


def regression_loss(prediction: Gaussian, target: Array, has_noise: bool) -> Array:
    """The negative log likelihood of each row [...]; half the squared error without noise."""
    error = (target - prediction.mean) ** 2
    if not has_noise:
        return 0.5 * error.sum(-1)
    variance = prediction.variance
    return 0.5 * (error / variance + jnp.log(variance) + LOG_2PI).sum(-1)
