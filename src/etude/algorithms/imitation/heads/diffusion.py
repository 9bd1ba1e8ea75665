"""Noise that is removed until an action is left: diffusion (Ho et al., 2020; Chi et al., 2023).

    a_t = √ᾱ_t a + √(1 - ᾱ_t) ε,   ε ~ N(0, I),   t uniform in 1, ..., T
    L = E[|ε_θ(s, a_t, t) - ε|²] / n,   n the number of elements of a

ᾱ falls from 1 at t = 0 to nearly 0 at t = T, by the cosine schedule (Nichol & Dhariwal, 2021). To
act, noise a_T becomes a_0 by the steps of DDIM (Song et al., 2021), from t to the next t' < t:

    â = (a_t - √(1 - ᾱ_t) ε_θ) / √ᾱ_t, clipped to [-1, 1]      the action as it is estimated
    ε̂ = (a_t - √ᾱ_t â) / √(1 - ᾱ_t)                            its noise
    a_t' = √ᾱ_t' â + √(1 - ᾱ_t') ε̂                             no noise is left at t' = 0
"""

import math
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from etude.algorithms.imitation.heads.action_head import (
    Context,
    from_vectors,
    keep_network,
    require_box,
    squared_error,
    to_vectors,
)
from etude.algorithms.imitation.heads.noisy_actions import (
    NoisyActionNetwork,
    make_noisy_action_network,
)
from etude.errors import InvalidInput
from etude.nn.networks import Activation
from etude.spaces import Space
from etude.struct import static, struct
from etude.types import Array, Metrics


@struct
class Diffusion:
    """Noise that is removed step by step until an action is left: for Box actions with bounds."""

    training_steps: int = static(100, at_least=1, at_most=10_000)
    """T: degrees of noise in training."""
    steps: int = static(10, at_least=1)
    """Steps of DDIM from noise to an action, at most training_steps."""
    hidden: tuple[int, ...] = static((256, 256), at_least=1)
    """Units of each hidden layer of the network ε."""

    is_deterministic: ClassVar[bool] = False

    def validate_fields(self) -> None:
        if self.steps > self.training_steps:
            raise InvalidInput(
                f"steps is {self.steps}, more than training_steps, {self.training_steps}; give "
                "fewer steps, or more training_steps"
            )

    def make(
        self, key: Array, space: Space, num_features: int, chunk: int, activation: Activation
    ) -> NoisyActionNetwork:
        """The network ε."""
        box = require_box(self, space, "bounded Box")
        return make_noisy_action_network(key, box, num_features, chunk, self.hidden, activation)

    def loss(
        self,
        network: NoisyActionNetwork,
        context: Context,
        action: Array,
        is_valid: Array,
        key: Array,
    ) -> tuple[Array, Metrics]:
        """The mean of (ε_θ - ε)² over the elements of actions."""
        key_noise, key_time = jax.random.split(key)
        vectors = to_vectors(action, network.space)
        noise = jax.random.normal(key_noise, vectors.shape)
        t = jax.random.randint(key_time, vectors.shape[:-2], 1, self.training_steps + 1)
        signal = jnp.asarray(cosine_schedule(self.training_steps))[t][..., None, None]  # ᾱ_t
        noisy = jnp.sqrt(signal) * vectors + jnp.sqrt(1 - signal) * noise
        error = network(context.features, noisy, t / self.training_steps) - noise
        loss = squared_error(error, is_valid)
        return loss, {"noise_error": loss}

    def act(
        self, network: NoisyActionNetwork, context: Context, key: Array, explore: bool
    ) -> Array:
        """What DDIM makes of noise; `explore` has no effect: the noise is drawn either way."""
        noise = jax.random.normal(key, network.noise_shape(context.features))
        predict = lambda x, t: network(context.features, x, t / self.training_steps)
        action = denoise(predict, noise, self.training_steps, self.steps)
        return from_vectors(action, network.space)

    constrain = staticmethod(keep_network)


def cosine_schedule(training_steps: int) -> np.ndarray:
    """ᾱ_t of t = 0, ..., T, float32 [T + 1], in which β_t = 1 - ᾱ_t / ᾱ_(t-1) is at most 0.999."""
    angle = (np.arange(training_steps + 1) / training_steps + 0.008) / 1.008 * math.pi / 2
    kept = np.cos(angle[1:]) ** 2 / np.cos(angle[:-1]) ** 2
    return np.cumprod([1.0, *np.maximum(kept, 0.001)]).astype(np.float32)


def denoise(
    predict: Callable[[Array, Array], Array], start: Array, training_steps: int, steps: int
) -> Array:
    """a_0 from noise `start` at T, by DDIM at `steps` of 1, ..., T; predict(a_t, t) is ε."""
    times = np.linspace(training_steps, 0, steps + 1).round().astype(np.int32)
    signals = cosine_schedule(training_steps)[times]

    def step(x, inputs):
        t, signal, next_signal = inputs
        action = (x - jnp.sqrt(1 - signal) * predict(x, t)) / jnp.sqrt(signal)
        action = jnp.clip(action, -1, 1)
        noise = (x - jnp.sqrt(signal) * action) / jnp.sqrt(1 - signal)
        return jnp.sqrt(next_signal) * action + jnp.sqrt(1 - next_signal) * noise, None

    return jax.lax.scan(step, start, (times[:-1], signals[:-1], signals[1:]))[0]
