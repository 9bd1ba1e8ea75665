"""Double integrator: a block that a force pushes along a line without friction.

    symbol   in code         unit     meaning
    x, ẋ     position,       m, m/s
             velocity
    F        control[0]      N        the force; the control is [1]
    m        mass            kg
    h        time_step       s

The state [2] is (x, ẋ), and ẍ = F / m. A step is exact for a constant force:

    xₜ₊₁ = xₜ + h ẋₜ + h² ẍₜ / 2,   ẋₜ₊₁ = ẋₜ + h ẍₜ
"""

import jax.numpy as jnp

from etude.types import Array

Scalar = float | Array


def derivative(state: Array, control: Array, *, mass: Scalar) -> Array:
    """Return (ẋ, ẍ), [2]."""
    return jnp.stack([state[1], control[0] / mass])


def next_state(state: Array, control: Array, *, mass: Scalar, time_step: Scalar) -> Array:
    """Return the state [2] after a step."""
    x_dot = derivative(state, control, mass=mass)
    return (
        state
        + time_step * x_dot
        + time_step**2 / 2 * jnp.stack([x_dot[1], jnp.zeros_like(x_dot[1])])
    )
