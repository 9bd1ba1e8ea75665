"""Action distributions: categorical, Bernoulli, normal, state-dependent (gSDE) and tanh-normal.

Each is a pytree with `sample(key)`, `mode()`, `log_prob(action)` and, but for SquashedNormal,
`entropy()` and `kl(other)`, the divergence KL(self || other) from a distribution of the same type.
Leading axes are any. The elements of one action are independent, and log-probabilities, entropies
and divergences are sums over them, [...].
"""

import functools
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etude import spaces
from etude.nn import action_masks
from etude.spaces import Box, Space
from etude.struct import replace, static, struct
from etude.trees import batched_index
from etude.types import Array

# the logit of an illegal action: its probability is 0, and p log p is 0 and not NaN
MASKED_LOGIT = -1e9


@struct
class Categorical:
    """Categorical distribution over n actions, with logits [..., n]."""

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
    """Independent categoricals, actions [..., *shape], with logits [..., sum of sizes]."""

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
        return self._reshape_action(
            [part.sample(key) for part, key in zip(self.parts, keys, strict=True)]
        )

    def mode(self) -> Array:
        return self._reshape_action([part.mode() for part in self.parts])

    def log_prob(self, action: Array) -> Array:
        actions = action.reshape(*self.logits.shape[:-1], len(self.sizes))
        return functools.reduce(
            operator.add, [part.log_prob(actions[..., i]) for i, part in enumerate(self.parts)]
        )

    def entropy(self) -> Array:
        return functools.reduce(operator.add, [part.entropy() for part in self.parts])

    def kl(self, other: "MultiCategorical") -> Array:
        return functools.reduce(
            operator.add, [p.kl(q) for p, q in zip(self.parts, other.parts, strict=True)]
        )

    def _reshape_action(self, actions: list[Array]) -> Array:
        return jnp.stack(actions, -1).reshape(*self.logits.shape[:-1], *self.shape)


@struct
class Bernoulli:
    """Independent Bernoulli variables, actions int8 [..., *shape], with logits [..., n]."""

    logits: Array
    shape: tuple[int, ...] = static()

    def sample(self, key: Array) -> Array:
        return self._reshape_action(jax.random.bernoulli(key, jax.nn.sigmoid(self.logits)))

    def mode(self) -> Array:
        return self._reshape_action(self.logits > 0)

    def log_prob(self, action: Array) -> Array:
        sign = 2.0 * action.reshape(self.logits.shape) - 1
        return jax.nn.log_sigmoid(sign * self.logits).sum(-1)

    def entropy(self) -> Array:
        p = jax.nn.sigmoid(self.logits)
        return -(
            p * jax.nn.log_sigmoid(self.logits) + (1 - p) * jax.nn.log_sigmoid(-self.logits)
        ).sum(-1)

    def kl(self, other: "Bernoulli") -> Array:
        log_ratio_1, log_ratio_0 = (
            jax.nn.log_sigmoid(sign * self.logits) - jax.nn.log_sigmoid(sign * other.logits)
            for sign in (1, -1)
        )
        p = jax.nn.sigmoid(self.logits)
        return (p * log_ratio_1 + (1 - p) * log_ratio_0).sum(-1)

    def _reshape_action(self, bits: Array) -> Array:
        return bits.astype(jnp.int8).reshape(*self.logits.shape[:-1], *self.shape)


@struct
class Normal:
    """Independent normals, actions [..., *shape], with mean and log standard z [..., n]."""

    mean: Array
    log_std: Array
    shape: tuple[int, ...] = static()

    def sample(self, key: Array) -> Array:
        noise = jax.random.normal(key, self.mean.shape)
        return self._reshape_action(self.mean + jnp.exp(self.log_std) * noise)

    def mode(self) -> Array:
        return self._reshape_action(self.mean)

    def log_prob(self, action: Array) -> Array:
        z = (action.reshape(self.mean.shape) - self.mean) * jnp.exp(-self.log_std)
        return -(z**2 / 2 + self.log_std + math.log(2 * math.pi) / 2).sum(-1)

    def entropy(self) -> Array:
        return (
            jnp.broadcast_to(self.log_std, self.mean.shape) + math.log(2 * math.pi * math.e) / 2
        ).sum(-1)

    def kl(self, other: Any) -> Array:
        other = broadcast_params(other)
        shift = (self.mean - other.mean) * jnp.exp(-other.log_std)
        scale = self.log_std - other.log_std
        return (jnp.exp(2 * scale) / 2 + shift**2 / 2 - 1 / 2 - scale).sum(-1)

    def _reshape_action(self, action: Array) -> Array:
        return action.reshape(*self.mean.shape[:-1], *self.shape)


@struct
class StateDependentNormal:
    """Normals with noise that is linear in the features (generalized SDE; Raffin et al., 2021).

        a = μ(s) + Eᵀ φ(s),   E[feature, n] ~ N(0, σ²),   so a ~ N(μ(s), Σ_f φ_f² σ_f²)

    A key determines E: with the same key, equal features get equal noise. `sample` takes a key, or
    a key for each leading index.
    """

    mean: Array  # [..., n]
    features: Array  # φ, [..., feature], without gradient
    log_std: Array  # of E, [feature, n]
    shape: tuple[int, ...] = static()

    @property
    def marginal(self) -> Normal:
        """The distribution of the action in its state, with E integrated out."""
        variance = self.features**2 @ jnp.exp(2 * self.log_std)
        return Normal(self.mean, jnp.log(variance + 1e-6) / 2, self.shape)

    def sample(self, key: Array) -> Array:
        keys = key if key.ndim else jax.random.split(key, self.mean.shape[:-1])
        standard_normal = lambda key: jax.random.normal(key, self.log_std.shape)
        noise = jax.vmap(standard_normal)(keys.ravel()).reshape(*keys.shape, *self.log_std.shape)
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
    """Normals u squashed to actions tanh(u), as in SAC (Haarnoja et al., 2018, appendix C).

        log π(a) = log N(u) - Σ log(1 - tanh²(u)),   a = tanh(u)

    Elements for which `squashed` is false are u itself. Parameters and shapes are those of Normal.
    The entropy has no closed form: the mean of -log_prob over samples estimates it.
    """

    mean: Array
    log_std: Array
    shape: tuple[int, ...] = static()
    squashed: bool | tuple[bool, ...] = static(True)  # for all elements, or for each

    def sample(self, key: Array) -> Array:
        return self._action(self._sample_pre_tanh(key))

    def mode(self) -> Array:
        """The action of the mean, as is customary; the density may be highest elsewhere."""
        return self._action(self.mean)

    def log_prob(self, action: Array) -> Array:
        """log π of actions [..., *shape]; ±1 counts as the nearest number inside (-1, 1)."""
        limit = 1 - float(jnp.finfo(self.mean.dtype).epsneg)
        action = action.reshape(self.mean.shape)
        inverse = jnp.arctanh(jnp.clip(action, -limit, limit))
        return self._log_prob(jnp.where(np.asarray(self.squashed), inverse, action))

    def sample_and_log_prob(self, key: Array, reparameterized: bool = True) -> tuple[Array, Array]:
        """An action and its log-probability, computed from u and so exact near ±1 too.

        Gradients flow through the action. If not `reparameterized`, u is a constant and the
        gradient of log π is the score.
        """
        u = self._sample_pre_tanh(key)
        u = u if reparameterized else jax.lax.stop_gradient(u)
        return self._action(u), self._log_prob(u)

    def environment_log_prob(self, space: Box, action: Array) -> Array:
        """The log-density of actions [..., *shape] scaled to the bounds of `space`.

        They are outputs of `spaces.to_environment_action`, and the density is log π(a) - Σ
        log(half-width) over the squashed elements. A clipped or rounded action has no density; this
        is the density before clipping and rounding.
        """
        low, high = (
            np.where(space.is_bounded, bound, unit)
            for bound, unit in zip(space.bounds, (-1, 1), strict=True)
        )
        center, half_width = low / 2 + high / 2, high / 2 - low / 2
        return self.log_prob((action - center) / half_width) - np.log(half_width).sum()

    def _sample_pre_tanh(self, key: Array) -> Array:
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
    """The number of network outputs that parameterize a distribution over actions of `space`."""
    match space:
        case spaces.Discrete(n=n):
            return n
        case spaces.MultiDiscrete(sizes=sizes):
            return sum(sizes)
    return math.prod(space.shape)


def distribution_for(space: Space, parameters: Array, log_std: Any = ()) -> Distribution:
    """The distribution over actions of `space` with parameters [..., num_parameters(space)].

    They are logits, or for a Box the mean, with `log_std` [num_parameters(space)].
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
    """The SquashedNormal over actions of `space`, from mean and log_std [..., elements].

    Elements with two bounds are squashed to (-1, 1); all others are plain normals.
    """
    return SquashedNormal(mean, log_std, space.shape, tuple(space.is_bounded.ravel().tolist()))


def masked_distribution(distribution: Distribution, action_mask: Array) -> Distribution:
    """The distribution restricted to legal actions, by a mask [..., n] in the order of the logits.

    Where no action is legal, the logits are NaN, and so is every result.
    """
    sizes = (
        distribution.sizes
        if isinstance(distribution, MultiCategorical)
        else distribution.logits.shape[-1:]
    )
    ends = np.cumsum(sizes)[:-1]
    has_legal_action = jnp.stack(
        [part.any(-1) for part in jnp.split(action_mask, ends, -1)], -1
    ).all(-1, keepdims=True)
    logits = action_masks.masked(distribution.logits, action_mask, MASKED_LOGIT)
    return replace(distribution, logits=jnp.where(has_legal_action, logits, jnp.nan))


def broadcast_params(distribution: Distribution) -> Distribution:
    """The distribution with every parameter broadcast to the leading axes.

    It can then be sliced and shuffled. StateDependentNormal becomes its marginal.
    """
    if isinstance(distribution, StateDependentNormal):
        return distribution.marginal
    return (
        replace(
            distribution, log_std=jnp.broadcast_to(distribution.log_std, distribution.mean.shape)
        )
        if isinstance(distribution, Normal)
        else distribution
    )
