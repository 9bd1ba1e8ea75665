"""Planar quadrotor: a rigid body between two rotors in a vertical plane.

    symbol   in code         unit     meaning
    x, z     state[:2]       m        the position of the center of mass, across and up
    θ        tilt            rad      from level, to the left
    ẋ, ż, θ̇  rates           m/s,     their rates
                             rad/s
    u₁, u₂   right, left     N        thrusts of the rotors; the control [2]
    g        gravity         m/s²
    m        mass            kg
    I        inertia         kg m²    about the center of mass
    r        arm             m        from the center of mass to a rotor

The state [6] is (x, z, θ, ẋ, ż, θ̇), and

    m ẍ = −(u₁ + u₂) sin θ,   m z̈ = (u₁ + u₂) cos θ − m g,   I θ̈ = r (u₁ − u₂)

Tedrake, "Underactuated robotics", 2024, chapter 3, "The planar quadrotor".
"""

import jax.numpy as jnp

from etude.types import Array

Scalar = float | Array


def derivative(
    state: Array, control: Array, *, gravity: Scalar, mass: Scalar, inertia: Scalar, arm: Scalar
) -> Array:
    """Return (ẋ, ż, θ̇, ẍ, z̈, θ̈), [6]."""
    tilt, rates = state[2], state[3:]
    right, left = control
    lift = (right + left) / mass
    accelerations = jnp.stack(
        [-lift * jnp.sin(tilt), lift * jnp.cos(tilt) - gravity, arm * (right - left) / inertia]
    )
    return jnp.concatenate([rates, accelerations])


def hover(*, gravity: Scalar, mass: Scalar) -> Array:
    """Return the thrusts [2] of a steady hover."""
    return jnp.full(2, mass * gravity / 2)
