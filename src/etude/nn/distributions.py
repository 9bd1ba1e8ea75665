"""What a policy's network puts over its actions.

Each is a pytree with `sample(key)`, `mode()`, `log_prob(action)` and, but for the squashed normal,
`entropy()` and `kl(other)`, the divergence KL(self || other) from one of its kind, [...]; leading
axes are any, and the axes of one action are summed over, its parts being independent.
"""

import functools
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etude import spaces
from etude.spaces import Box, Space
from etude.struct import replace, static, struct
from etude.trees import batched_index
from etude.types import Array

# the logit of a choice that is masked out: its probability is 0, and 0 log 0 is no NaN
MASKED_LOGIT = -1e9


@struct
class Categorical:
    """One choice of n, in logits [..., n]."""

    logits: Array

    def sample(self, key: Array) -> Array:
        return jax.random.categorical(key, self.logits)

    def mode(self) -> Array:
        return self.logits.argmax(-1)

    def log_prob(self, action: Array) -> Array:
        return batched_index(jax.nn.log_softmax(self.logits), action)

    def entropy(self) -> Array:
        log_p = jax.nn.log_softmax(self.logits)
        return -(jnp.exp(log_p) * log_p).sum(-1)

    def kl(self, other: "Categorical") -> Array:
        log_p, log_q = jax.nn.log_softmax(self.logits), jax.nn.log_softmax(other.logits)
        return (jnp.exp(log_p) * (log_p - log_q)).sum(-1)


@struct
class MultiCategorical:
    """Independent choices, action [..., *shape], in logits [..., sum of sizes]."""

    logits: Array
    sizes: tuple[int, ...] = static()
    shape: tuple[int, ...] = static()

    @property
    def parts(self) -> list[Categorical]:
        ends = [sum(self.sizes[: i + 1]) for i in range(len(self.sizes))]
        return [
            Categorical(self.logits[..., end - size : end])
            for size, end in zip(self.sizes, ends, strict=True)
        ]

    def sample(self, key: Array) -> Array:
        keys = jax.random.split(key, len(self.sizes))
        return self._shaped([part.sample(key) for part, key in zip(self.parts, keys, strict=True)])

    def mode(self) -> Array:
        return self._shaped([part.mode() for part in self.parts])

    def log_prob(self, action: Array) -> Array:
        choices = action.reshape(*self.logits.shape[:-1], len(self.sizes))
        return functools.reduce(
            operator.add, [part.log_prob(choices[..., i]) for i, part in enumerate(self.parts)]
        )

    def entropy(self) -> Array:
        return functools.reduce(operator.add, [part.entropy() for part in self.parts])

    def kl(self, other: "MultiCategorical") -> Array:
        return functools.reduce(
            operator.add, [p.kl(q) for p, q in zip(self.parts, other.parts, strict=True)]
        )

    def _shaped(self, choices: list[Array]) -> Array:
        return jnp.stack(choices, -1).reshape(*self.logits.shape[:-1], *self.shape)


@struct
class Bernoulli:
    """Independent zeros and ones, action [..., *shape] of int8, in logits [..., n]."""

    logits: Array
    shape: tuple[int, ...] = static()

    def sample(self, key: Array) -> Array:
        return self._shaped(jax.random.bernoulli(key, jax.nn.sigmoid(self.logits)))

    def mode(self) -> Array:
        return self._shaped(self.logits > 0)

    def log_prob(self, action: Array) -> Array:
        sign = 2.0 * action.reshape(self.logits.shape) - 1
        return jax.nn.log_sigmoid(sign * self.logits).sum(-1)

    def entropy(self) -> Array:
        p = jax.nn.sigmoid(self.logits)
        return -(
            p * jax.nn.log_sigmoid(self.logits) + (1 - p) * jax.nn.log_sigmoid(-self.logits)
        ).sum(-1)

    def kl(self, other: "Bernoulli") -> Array:
        on, off = (
            jax.nn.log_sigmoid(s * self.logits) - jax.nn.log_sigmoid(s * other.logits)
            for s in (1, -1)
        )
        p = jax.nn.sigmoid(self.logits)
        return (p * on + (1 - p) * off).sum(-1)

    def _shaped(self, on: Array) -> Array:
        return on.astype(jnp.int8).reshape(*self.logits.shape[:-1], *self.shape)


@struct
class Normal:
    """Independent normals, action [..., *shape], with mean and log standard deviation [..., n]."""

    mean: Array
    log_std: Array
    shape: tuple[int, ...] = static()

    def sample(self, key: Array) -> Array:
        noise = jax.random.normal(key, self.mean.shape)
        return self._shaped(self.mean + jnp.exp(self.log_std) * noise)

    def mode(self) -> Array:
        return self._shaped(self.mean)

    def log_prob(self, action: Array) -> Array:
        deviation = (action.reshape(self.mean.shape) - self.mean) * jnp.exp(-self.log_std)
        return -(deviation**2 / 2 + self.log_std + math.log(2 * math.pi) / 2).sum(-1)

    def entropy(self) -> Array:
        return (
            jnp.broadcast_to(self.log_std, self.mean.shape) + math.log(2 * math.pi * math.e) / 2
        ).sum(-1)

    def kl(self, other: Any) -> Array:
        other = broadcast_params(other)
        shift = (self.mean - other.mean) * jnp.exp(-other.log_std)
        scale = self.log_std - other.log_std
        return (jnp.exp(2 * scale) / 2 + shift**2 / 2 - 1 / 2 - scale).sum(-1)

    def _shaped(self, action: Array) -> Array:
        return action.reshape(*self.mean.shape[:-1], *self.shape)


@struct
class StateDependentNormal:
    """Normals whose noise is a linear function of the state's features (generalized SDE; Raffin et
    al., 2021).

        a = μ(s) + Eᵀ φ(s),   E[feature, n] ~ N(0, σ²),   so a ~ N(μ(s), Σ_f φ_f² σ_f²)

    A key stands for an E: the same one in states alike makes the same noise. `sample` takes one, or
    one a leading index.
    """

    mean: Array  # [..., n]
    features: Array  # φ, [..., feature]: constants
    log_std: Array  # of E, [feature, n]
    shape: tuple[int, ...] = static()

    @property
    def marginal(self) -> Normal:
        """Of the action in its state, E being unknown."""
        variance = self.features**2 @ jnp.exp(2 * self.log_std)
        return Normal(self.mean, jnp.log(variance + 1e-6) / 2, self.shape)

    def sample(self, key: Array) -> Array:
        keys = key if key.ndim else jax.random.split(key, self.mean.shape[:-1])
        draw = lambda key: jax.random.normal(key, self.log_std.shape)
        noise = jax.vmap(draw)(keys.ravel()).reshape(*keys.shape, *self.log_std.shape)
        action = self.mean + jnp.einsum(
            "...f,...fn->...n", self.features, jnp.exp(self.log_std) * noise
        )
        return action.reshape(*self.mean.shape[:-1], *self.shape)

    def mode(self) -> Array:
        return self.marginal.mode()

    def log_prob(self, action: Array) -> Array:
        return self.marginal.log_prob(action)

    def entropy(self) -> Array:
        return self.marginal.entropy()

    def kl(self, other: Any) -> Array:
        return self.marginal.kl(broadcast_params(other))


@struct
class SquashedNormal:
    """Normals u of which the policy plays tanh(u), or u itself where `squashed` is false (Haarnoja
    et al., 2018, appendix C).

        log π(a) = log N(u) - Σ log(1 - tanh²(u)),   a = tanh(u)

    Parameters and shapes are those of Normal. It has no entropy in closed form: the mean of
    -log_prob over samples estimates it.
    """

    mean: Array
    log_std: Array
    shape: tuple[int, ...] = static()
    squashed: bool | tuple[bool, ...] = static(True)  # of all elements, or of each

    def sample(self, key: Array) -> Array:
        return self._action(self._draw(key))

    def mode(self) -> Array:
        """The action of the mean, as is customary: where it is squashed, the density may be highest
        elsewhere."""
        return self._action(self.mean)

    def log_prob(self, action: Array) -> Array:
        """Of actions [..., *shape]; one that rounding has put on ±1 counts as the nearest number
        inside."""
        limit = 1 - float(jnp.finfo(self.mean.dtype).epsneg)
        action = action.reshape(self.mean.shape)
        inverse = jnp.arctanh(jnp.clip(action, -limit, limit))
        return self._log_prob(jnp.where(np.asarray(self.squashed), inverse, action))

    def sample_and_log_prob(self, key: Array, reparameterized: bool = True) -> tuple[Array, Array]:
        """An action and its log-probability, from u without inverting, hence exact however near ±1
        the action is.

        Their gradients go through the action too; when not `reparameterized` it is a constant, and
        that of log π the score.
        """
        u = self._draw(key)
        u = u if reparameterized else jax.lax.stop_gradient(u)
        return self._action(u), self._log_prob(u)

    def environment_log_prob(self, space: Box, action: Array) -> Array:
        """The log-density of the environment's actions [..., *shape] in `space`: what
        `spaces.to_environment` makes of ours.

        It is log π(a) - Σ log(half-width) over the squashed elements. Where a single bound clips,
        or integers are rounded, there is no density; this is that of the action before.
        """
        low, high = (
            np.where(space.is_bounded, bound, unit)
            for bound, unit in zip(space.bounds, (-1, 1), strict=True)
        )
        middle, half = low / 2 + high / 2, high / 2 - low / 2
        return self.log_prob((action - middle) / half) - np.log(half).sum()

    def _draw(self, key: Array) -> Array:
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape)

    def _action(self, u: Array) -> Array:
        return jnp.where(np.asarray(self.squashed), jnp.tanh(u), u).reshape(
            *self.mean.shape[:-1], *self.shape
        )

    def _log_prob(self, u: Array) -> Array:
        # log(1 - tanh²(u)), finite for any u
        log_slope = 2 * (math.log(2) - u - jax.nn.softplus(-2 * u))
        return Normal(self.mean, self.log_std, u.shape[-1:]).log_prob(u) - (
            np.asarray(self.squashed) * log_slope
        ).sum(-1)


Distribution = Categorical | MultiCategorical | Bernoulli | Normal | StateDependentNormal


def num_parameters(space: Space) -> int:
    """How many numbers a network must give to put a distribution over actions of `space`."""
    match space:
        case spaces.Discrete(n=n):
            return n
        case spaces.MultiDiscrete(sizes=sizes):
            return sum(sizes)
    return math.prod(space.shape)


def distribution_for(space: Space, parameters: Array, log_std: Any = ()) -> Distribution:
    """The distribution over actions of `space` with these parameters, [..., num_parameters(space)].

    A Box takes them as the mean, and `log_std` [num_parameters(space)] beside them.
    """
    match space:
        case spaces.Discrete():
            return Categorical(parameters)
        case spaces.MultiDiscrete(sizes=sizes, shape=shape):
            return MultiCategorical(parameters, sizes, shape)
        case spaces.MultiBinary(shape=shape):
            return Bernoulli(parameters, shape)
    return Normal(parameters, log_std, space.shape)


def squashed_distribution_for(space: Box, mean: Array, log_std: Array) -> SquashedNormal:
    """The distribution over actions of `space`, mean and log_std [..., elements]: squashed where it
    has both bounds.

    So the policy acts in (-1, 1) there, and elsewhere as it is, by a plain normal.
    """
    return SquashedNormal(mean, log_std, space.shape, tuple(space.is_bounded.ravel().tolist()))


def masked(choice: Distribution, allowed: Array) -> Distribution:
    """The same without the choices that are not `allowed`, [..., n] in the order of the logits.

    Where none is, no action is right: the logits are NaN there, and so is whatever is made of them.
    """
    sizes = choice.sizes if isinstance(choice, MultiCategorical) else choice.logits.shape[-1:]
    ends = np.cumsum(sizes)[:-1]
    possible = jnp.stack([part.any(-1) for part in jnp.split(allowed, ends, -1)], -1).all(
        -1, keepdims=True
    )
    logits = jnp.where(allowed, choice.logits, MASKED_LOGIT)
    return replace(choice, logits=jnp.where(possible, logits, jnp.nan))


def broadcast_params(choice: Distribution) -> Distribution:
    """The same with every parameter in the leading axes of the choice, none in common: it can be
    cut and reordered."""
    if isinstance(choice, StateDependentNormal):
        return choice.marginal
    return (
        replace(choice, log_std=jnp.broadcast_to(choice.log_std, choice.mean.shape))
        if isinstance(choice, Normal)
        else choice
    )
