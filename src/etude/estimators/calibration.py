"""How sure a prediction is and whether it is right: moments, NLL, coverage, CRPS, sharpness.

A prediction of targets [row, dim] is a Gaussian for each row and dimension, with `mean` and
`variance` [row, dim], or an equally weighted mixture of Gaussians, such as the members of an
ensemble or the draws of a Bayesian network, with `means` and `variances` [member, row, dim]:

    p(y) = 1/M Σₘ Πd N(y_d; μₘd, σₘd²)

A mixture is not the Gaussian of its moments: members that disagree have several modes. Targets,
means, the CRPS and the sharpness have the unit of the data, variances its square, the NLL is in
nats. Rows are those that nothing was fitted to: a prediction is always too sure of its own data.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from etude.errors import InvalidInput
from etude.types import Array

LEVELS = np.arange(1, 100, dtype=np.float32) / 100  # 1 % to 99 %


def mixture_moments(means: Array, variances: Array) -> tuple[Array, Array, Array]:
    """The mean of a mixture, and the two parts of its variance.

        μ̄ = 1/M Σₘ μₘ,   aleatoric = 1/M Σₘ σₘ²,   epistemic = 1/M Σₘ (μₘ - μ̄)²

    Their sum is the variance of the mixture, by the law of total variance. The aleatoric part is
    the noise of the data, which more data leaves; the epistemic part is the doubt about the model:
    how much its members disagree. One member alone has none, whatever it does not know
    (Lakshminarayanan et al., 2017, section 2.4; Depeweg et al., 2018).

    Args:
        means: μ, [member, row, dim].
        variances: σ², [member, row, dim].

    Returns:
        (mean, aleatoric variance, epistemic variance), each [row, dim].

    Raises:
        InvalidInput: the shapes differ.
    """
    _require_equal_shapes(means=means, variances=variances)
    return means.mean(0), variances.mean(0), means.var(0)


def gaussian_nll(target: Array, mean: Array, variance: Array) -> Array:
    """The negative log likelihood of each row under a Gaussian.

        -log N(y; μ, σ²) = ½ Σd [(y - μ)² / σ² + log σ² + log 2π]

    Of targets that have this distribution its mean is the entropy, ½ + ½ log 2π + log σ = 1.4189 +
    log σ nats for each dimension, and under any other Gaussian it is larger (Gneiting & Raftery,
    2007, section 4.1).

    Args:
        target: y, [row, dim].
        mean: μ, [row, dim].
        variance: σ² > 0, [row, dim].

    Returns:
        Nats, [row].

    Raises:
        InvalidInput: the shapes differ.
    """
    _require_equal_shapes(target=target, mean=mean, variance=variance)
    return -_log_density(target, mean, variance)


def mixture_nll(target: Array, means: Array, variances: Array) -> Array:
    """The negative log likelihood of each row under an equally weighted mixture of Gaussians.

        -log p(y) = log M - log Σₘ exp(Σd log N(y_d; μₘd, σₘd²))

    A member predicts all dimensions of a row together, so their sum is inside the exponent. The
    logarithm of the sum is taken without leaving the range of the numbers.

    Args:
        target: y, [row, dim].
        means: μ, [member, row, dim].
        variances: σ² > 0, [member, row, dim].

    Returns:
        Nats, [row].

    Raises:
        InvalidInput: the shapes differ.
    """
    _require_members(target, means, variances)
    log_density = _log_density(target, means, variances)  # [member, row]
    return math.log(len(means)) - jax.nn.logsumexp(log_density, 0)


def gaussian_pit(target: Array, mean: Array, variance: Array) -> Array:
    """The probability integral transform F(y) = Φ((y - μ) / σ), F the Gaussian's own cdf.

    It is uniform in [0, 1] if and only if the prediction is right (Gneiting et al., 2007).

    Args:
        target: y, [row, dim].
        mean: μ, [row, dim].
        variance: σ², [row, dim]; at 0 the prediction is the point μ, and F(μ) = ½.

    Returns:
        Probabilities, [row, dim], which `coverage` and `calibration_error` read.

    Raises:
        InvalidInput: the shapes differ.
    """
    _require_equal_shapes(target=target, mean=mean, variance=variance)
    return jax.scipy.special.ndtr(_standardize(target - mean, variance))


def mixture_pit(target: Array, means: Array, variances: Array) -> Array:
    """The probability integral transform F(y) = 1/M Σₘ Φ((y - μₘ) / σₘ), F the mixture's own cdf.

    Args:
        target: y, [row, dim].
        means: μ, [member, row, dim].
        variances: σ², [member, row, dim]; at 0 a member is the point μₘ.

    Returns:
        Probabilities, [row, dim], as of `gaussian_pit`.

    Raises:
        InvalidInput: the shapes differ.
    """
    _require_members(target, means, variances)
    return jax.scipy.special.ndtr(_standardize(target - means, variances)).mean(0)


def coverage(pit: Array, level: float | Array) -> Array:
    """The share of targets that lie in the centered interval of a level, p̂(level).

    The interval has the same probability, (1 - level) / 2, on either side, so y lies in it where

        |2 F(y) - 1| <= level

    A calibrated prediction has a coverage equal to the level, one that is too sure has less. A
    prediction that is no number covers nothing.

    Args:
        pit: F(y), [row, dim], from `gaussian_pit` or `mixture_pit`.
        level: The probability of the interval, from 0 to 1.

    Returns:
        Shares, [dim].

    Raises:
        InvalidInput: there is no row, or the level is no probability.
    """
    _require_rows(pit)
    _require_probabilities(level)
    return (jnp.abs(2 * pit - 1) <= level).mean(0)


def calibration_error(pit: Array, levels: Array | np.ndarray = LEVELS) -> Array:
    """The mean over levels of |level - coverage|, of centered intervals (ECE).

    It is 0 for a calibrated prediction, and also for one that says the same of every row and is
    right on average: read it beside `sharpness`. Nor does it show a bias that a greater width makes
    good. Kuleshov et al. (2018) compare levels and shares so, of quantiles, squared.

    Args:
        pit: F(y), [row, dim], from `gaussian_pit` or `mixture_pit`.
        levels: Probabilities of intervals, [level]; 1 % to 99 % unless given.

    Returns:
        Errors, [dim], each from 0 to 1.

    Raises:
        InvalidInput: there is no row or no level, or a level is no probability.
    """
    _require_probabilities(levels)
    covered = jax.lax.map(lambda level: coverage(pit, level), jnp.asarray(levels))  # [level, dim]
    return jnp.abs(covered - jnp.asarray(levels)[:, None]).mean(0)


def gaussian_crps(target: Array, mean: Array, variance: Array) -> Array:
    """The continuous ranked probability score of a Gaussian: ∫ (F(x) - 1[x >= y])² dx.

        CRPS = σ [z (2 Φ(z) - 1) + 2 φ(z) - 1 / √π],   z = (y - μ) / σ

    Lower is better. It has the unit of the target and is the absolute error where σ = 0. Of targets
    that have this distribution its mean is σ / √π = 0.5642 σ (Gneiting & Raftery, 2007).

    Args:
        target: y, [row, dim].
        mean: μ, [row, dim].
        variance: σ², [row, dim].

    Returns:
        Scores, [row, dim].

    Raises:
        InvalidInput: the shapes differ.
    """
    _require_equal_shapes(target=target, mean=mean, variance=variance)
    return _mean_absolute(target - mean, variance) - jnp.sqrt(variance / math.pi)


def mixture_crps(target: Array, means: Array, variances: Array) -> Array:
    """The continuous ranked probability score of a mixture (Grimit et al., 2006).

        CRPS = 1/M Σₘ A(y - μₘ, σₘ²) - 1/(2M²) Σₘ Σₖ A(μₘ - μₖ, σₘ² + σₖ²)
        A(μ, σ²) = E|N(μ, σ²)| = 2 σ φ(μ / σ) + μ (2 Φ(μ / σ) - 1)

    Args:
        target: y, [row, dim].
        means: μ, [member, row, dim].
        variances: σ², [member, row, dim].

    Returns:
        Scores, [row, dim].

    Raises:
        InvalidInput: the shapes differ.
    """
    _require_members(target, means, variances)

    def distance_to_members(member: tuple[Array, Array]) -> Array:
        mean, variance = member
        return _mean_absolute(mean - means, variance + variances).mean(0)

    # one member against all at a time, for pairs of many draws would fill the memory
    between_members = jax.lax.map(distance_to_members, (means, variances)).mean(0)
    return _mean_absolute(target - means, variances).mean(0) - between_members / 2


def sharpness(variance: Array) -> Array:
    """The root mean square of the predicted σ over the rows: how narrow the predictions are.

    Of two calibrated predictions the sharper one is better (Gneiting et al., 2007).

    Args:
        variance: σ², [row, dim]; of a mixture the aleatoric and the epistemic part together.

    Returns:
        Standard deviations, [dim].

    Raises:
        InvalidInput: there is no row.
    """
    _require_rows(variance)
    return jnp.sqrt(variance.mean(0))


def _log_density(target: Array, mean: Array, variance: Array) -> Array:
    """log N(y; μ, σ²) of a row: the sum over its dimensions."""
    squared = (target - mean) ** 2 / variance
    return -(squared + jnp.log(variance) + math.log(2 * math.pi)).sum(-1) / 2


def _standardize(deviation: Array, variance: Array) -> Array:
    """(y - μ) / σ, infinite for σ = 0, but 0 for a deviation of 0."""
    std = jnp.sqrt(variance)
    return deviation / jnp.maximum(std, jnp.finfo(std.dtype).tiny)


def _mean_absolute(mean: Array, variance: Array) -> Array:
    """E|N(μ, σ²)|, the A of Grimit et al. (2006)."""
    z = _standardize(mean, variance)
    density = jnp.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return 2 * jnp.sqrt(variance) * density + mean * jax.scipy.special.erf(z / math.sqrt(2))


def _require_members(target: Array, means: Array, variances: Array) -> None:
    _require_equal_shapes(means=means, variances=variances)
    if not len(means) or jnp.shape(means)[1:] != jnp.shape(target):
        raise InvalidInput(
            f"means have the shape {jnp.shape(means)} for targets of shape {jnp.shape(target)}; "
            "give [member, row, dim] for [row, dim], with at least one member"
        )


def _require_equal_shapes(**arrays: Array) -> None:
    shapes = {name: jnp.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise InvalidInput(
            "the shapes differ: "
            + ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            + "; make them equal"
        )


def _require_rows(array: Array) -> None:
    if not len(array):
        raise InvalidInput("there are 0 rows; a measure of predictions needs at least 1")


def _require_probabilities(levels: float | Array | np.ndarray) -> None:
    if isinstance(levels, jax.core.Tracer):
        return  # the values are not known at compile time
    levels = np.asarray(levels)
    if not levels.size:
        raise InvalidInput("there are 0 levels; give at least 1, from 0 to 1")
    if not ((levels >= 0) & (levels <= 1)).all():
        raise InvalidInput(f"the level is {levels}; it must be from 0 to 1, as 0.9 for 90 %")
