"""Noise that flows to an action: flow matching along straight lines (Lipman et al., 2023).

    a_τ = (1 - τ) ε + τ a,   ε ~ N(0, I),   τ uniform in [0, 1]
    L = E[|v(s, a_τ, τ) - (a - ε)|²] / n,   n the number of elements of a

This is their optimal transport path with σ_min = 0. The best v is the mean velocity of all lines
that pass a_τ. To act, noise follows it from τ = 0 to τ = 1, by the steps of Euler's method. With a
single step every action is the expert's mean action; with more steps the actions split into its
modes.
"""

from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp

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
from etude.nn.networks import Activation
from etude.spaces import Space
from etude.struct import static, struct
from etude.types import Array, Metrics


@struct
class Flow:
    """Noise that flows to an action, by flow matching: for Box actions."""

    steps: int = static(10, at_least=1)
    """Steps of Euler's method from noise to an action."""
    hidden: tuple[int, ...] = static((256, 256), at_least=1)
    """Units of each hidden layer of the network v."""

    is_deterministic: ClassVar[bool] = False

    def make(
        self, key: Array, space: Space, num_features: int, chunk: int, activation: Activation
    ) -> NoisyActionNetwork:
        """The network v."""
        box = require_box(self, space)
        return make_noisy_action_network(key, box, num_features, chunk, self.hidden, activation)

    def loss(
        self,
        network: NoisyActionNetwork,
        context: Context,
        action: Array,
        is_valid: Array,
        key: Array,
    ) -> tuple[Array, Metrics]:
        """The mean of (v - (a - ε))² over the elements of actions."""
        key_noise, key_time = jax.random.split(key)
        vectors = to_vectors(action, network.space)
        noise = jax.random.normal(key_noise, vectors.shape)
        time = jax.random.uniform(key_time, vectors.shape[:-2])
        noisy, velocity = straight_line(noise, vectors, time[..., None, None])
        error = network(context.features, noisy, time) - velocity
        loss = squared_error(error, is_valid)
        return loss, {"velocity_error": loss}

    def act(
        self, network: NoisyActionNetwork, context: Context, key: Array, explore: bool
    ) -> Array:
        """Where noise flows to; `explore` has no effect: the noise is drawn either way."""
        noise = jax.random.normal(key, network.noise_shape(context.features))
        field = lambda x, time: network(context.features, x, time)
        action = integrate(field, noise, self.steps)
        return from_vectors(action, network.space)

    constrain = staticmethod(keep_network)


def straight_line(noise: Array, action: Array, time: Array) -> tuple[Array, Array]:
    """(a_τ, its velocity) on the line from noise at τ = 0 to an action at τ = 1."""
    return (1 - time) * noise + time * action, action - noise


def integrate(field: Callable[[Array, Array], Array], start: Array, steps: int) -> Array:
    """Where dx/dτ = field(x, τ) leads from `start` at τ = 0 to τ = 1, by Euler's method."""
    step = lambda x, time: (x + field(x, time) / steps, None)
    return jax.lax.scan(step, start, jnp.arange(steps) / steps)[0]
