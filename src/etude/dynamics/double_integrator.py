"""A block pushed along a line without friction.

    symbol   in code         unit     what it is
    x, ẋ     position,       m, m/s
             velocity
    F        control[0]      N        the force; the control is [1]
    m        mass            kg
    h        time_step       s

The state [2] is (x, ẋ), and ẍ = F / m. A step is exact for a force that is held:

    xₜ₊₁ = xₜ + h ẋₜ + h² ẍₜ / 2,   ẋₜ₊₁ = ẋₜ + h ẍₜ
"""

import jax.numpy as jnp

from etude.types import Array

Scalar = float | Array


def derivative(state: Array, control: Array, *, mass: Scalar) -> Array:
    """(ẋ, ẍ), [2]."""
    return jnp.stack([state[1], control[0] / mass])


def next_state(state: Array, control: Array, *, mass: Scalar, time_step: Scalar) -> Array:
    """The state [2] a step later."""
    slope = derivative(state, control, mass=mass)
    return (
        state
        + time_step * slope
        + time_step**2 / 2 * jnp.stack([slope[1], jnp.zeros_like(slope[1])])
    )
