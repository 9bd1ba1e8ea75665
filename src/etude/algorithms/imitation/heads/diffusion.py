"""Noise that is taken from an action: a diffusion model (Ho et al., 2020; Chi et al., 2023).

    a_t = √ᾱ_t a + √(1 - ᾱ_t) ε,   ε ~ N(0, I),   t uniform in 1, ..., T
    L = E[|ε_θ(s, a_t, t) - ε|²]

ᾱ falls from 1 at t = 0 to nearly 0 at t = T, by the cosine schedule (Nichol & Dhariwal, 2021). To
act, noise a_T goes down to a_0 by the steps of DDIM (Song et al., 2021), which add no noise: each
takes the action that a_t and ε_θ tell, within [-1, 1], and puts back as much noise as is left at
the next t, which is none at 0.
"""

import math
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from etude.algorithms.imitation.heads.action_head import (
    Context,
    box_for,
    keep_network,
    squared_error,
    to_vectors,
)
from etude.algorithms.imitation.heads.denoising import DenoisingNetwork, make_denoising_network
from etude.errors import InvalidInput
from etude.nn.networks import Activation
from etude.spaces import Space
from etude.struct import static, struct
from etude.types import Array, Metrics


@struct
class Diffusion:
    """Noise that is taken from an action step by step: for Box actions with bounds."""

    training_steps: int = static(100, at_least=1)
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
    ) -> DenoisingNetwork:
        """The network ε."""
        box = box_for(self, space, "bounded Box")
        return make_denoising_network(key, box, num_features, chunk, self.hidden, activation)

    def loss(
        self,
        network: DenoisingNetwork,
        context: Context,
        action: Array,
        is_valid: Array,
        key: Array,
    ) -> tuple[Array, Metrics]:
        """The mean of (ε_θ - ε)² over the elements of actions."""
        key_noise, key_time = jax.random.split(key)
        vectors = to_vectors(action, is_valid)
        noise = jax.random.normal(key_noise, vectors.shape)
        time = jax.random.randint(key_time, vectors.shape[:-2], 1, self.training_steps + 1)
        signal = jnp.asarray(cosine_schedule(self.training_steps))[time][..., None, None]
        noisy = jnp.sqrt(signal) * vectors + jnp.sqrt(1 - signal) * noise
        error = network(context.features, noisy, time / self.training_steps) - noise
        loss = squared_error(error, is_valid)
        return loss, {"noise_error": loss}

    def act(self, network: DenoisingNetwork, context: Context, key: Array, explore: bool) -> Array:
        """What DDIM makes of noise; with `explore` there is no noise beside it."""
        noise = jax.random.normal(key, network.noise_shape(context.features))
        predict = lambda x, time: network(context.features, x, time / self.training_steps)
        action = denoise(predict, noise, self.training_steps, self.steps)
        return action.reshape(*action.shape[:-1], *network.space.shape)

    constrain = staticmethod(keep_network)


def cosine_schedule(training_steps: int) -> np.ndarray:
    """ᾱ_t of t = 0, ..., T, float32 [T + 1]; no step takes away more than 99.9 % of it."""
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
        time, signal, next_signal = inputs
        action = (x - jnp.sqrt(1 - signal) * predict(x, time)) / jnp.sqrt(signal)
        action = jnp.clip(action, -1, 1)
        noise = (x - jnp.sqrt(signal) * action) / jnp.sqrt(1 - signal)
        return jnp.sqrt(next_signal) * action + jnp.sqrt(1 - next_signal) * noise, None

    return jax.lax.scan(step, start, (times[:-1], signals[:-1], signals[1:]))[0]
