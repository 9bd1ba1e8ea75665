"""Acrobot: two links that hang from a joint, with a motor in the joint between them.

    symbol   in code             unit     meaning
    θ₁, θ̇₁   angle_1, rate_1     rad,     the first link's angle and its rate
                                 rad/s
    θ₂, θ̇₂   angle_2, rate_2     rad,     the second's, relative to the first
                                 rad/s
    τ        control[0]          N m      the torque between the links; the control is [1]
    g        gravity             m/s²
    l        length              m        of the first link
    mᵢ       mass_1, mass_2      kg
    cᵢ       center_1, center_2  m        from a link's joint to its center of mass
    I        inertia             kg m²    of each link about its center of mass
    β        coupling            kg m²    m₂ l c₂

The state [4] is (θ₁, θ₂, θ̇₁, θ̇₂), and M(θ) θ̈ + h(θ, θ̇) + w(θ) = (0, τ) with

    M₁₁ = m₁ c₁² + m₂ (l² + c₂²) + 2 β cos θ₂ + 2 I,   M₂₂ = m₂ c₂² + I,   M₁₂ = M₂₂ + β cos θ₂
    h₁ = −β sin θ₂ (θ̇₂² + 2 θ̇₁ θ̇₂),                   h₂ = β sin θ₂ θ̇₁²
    w₂ = m₂ c₂ g sin(θ₁ + θ₂),                         w₁ = w₂ + (m₁ c₁ + m₂ l) g sin θ₁

where θ₁ is measured from hanging; measured from upright, both w change their sign.

Two functions solve for θ̈. They are equal in exact arithmetic and differ in rounding: `derivative`
eliminates θ̈₁ as Gymnasium does, and `derivative_from_upright` inverts M by its determinant, for
equal links and a goal where both angles are zero. Neither calls the other, since the motion is
chaotic: a difference in the last bit soon leads to a different trajectory.

Sutton & Barto, "Reinforcement learning: an introduction", 1998, §11.3, the "book" equations of
gymnasium/envs/classic_control/acrobot.py; Spong, "The swing up control problem for the acrobot",
1995.
"""

import jax.numpy as jnp

from etude.types import Array

Scalar = float | Array


def derivative(
    state: Array,
    control: Array,
    *,
    gravity: Scalar,
    length: Scalar,
    mass_1: Scalar,
    mass_2: Scalar,
    center_1: Scalar,
    center_2: Scalar,
    inertia: Scalar,
) -> Array:
    """Return (θ̇₁, θ̇₂, θ̈₁, θ̈₂), [4], with θ₁ measured from hanging."""
    angle_1, angle_2 = state[:2]
    rate_1, rate_2 = state[2:]
    coupling = mass_2 * length * center_2
    inertia_11 = (
        mass_1 * center_1**2
        + mass_2 * (length**2 + center_2**2)
        + 2 * coupling * jnp.cos(angle_2)
        + 2 * inertia
    )
    inertia_22 = mass_2 * center_2**2 + inertia
    inertia_12 = inertia_22 + coupling * jnp.cos(angle_2)
    weight_2 = mass_2 * center_2 * gravity * jnp.sin(angle_1 + angle_2)
    weight_1 = weight_2 + (mass_1 * center_1 + mass_2 * length) * gravity * jnp.sin(angle_1)
    force_1 = weight_1 - coupling * jnp.sin(angle_2) * (rate_2**2 + 2 * rate_1 * rate_2)
    force_2 = weight_2 + coupling * jnp.sin(angle_2) * rate_1**2
    acceleration_2 = (control[0] + inertia_12 / inertia_11 * force_1 - force_2) / (
        inertia_22 - inertia_12**2 / inertia_11
    )
    acceleration_1 = -(inertia_12 * acceleration_2 + force_1) / inertia_11
    return jnp.stack([rate_1, rate_2, acceleration_1, acceleration_2])


def derivative_from_upright(
    state: Array, control: Array, *, gravity: Scalar, mass: Scalar, length: Scalar, inertia: Scalar
) -> Array:
    """Return (θ̇₁, θ̇₂, θ̈₁, θ̈₂), [4], with θ₁ from upright and equal links, c₁ = c₂ = l / 2."""
    (angle_1, angle_2), (rate_1, rate_2) = state[:2], state[2:]
    center = length / 2
    coupling = mass * length * center
    inertia_22 = mass * center**2 + inertia
    inertia_12 = inertia_22 + coupling * jnp.cos(angle_2)
    inertia_11 = mass * (2 * center**2 + length**2) + 2 * coupling * jnp.cos(angle_2) + 2 * inertia
    weight_2 = -mass * gravity * center * jnp.sin(angle_1 + angle_2)
    weight_1 = weight_2 - mass * gravity * (center + length) * jnp.sin(angle_1)
    coriolis = coupling * jnp.sin(angle_2)
    torque_1 = coriolis * (rate_2**2 + 2 * rate_1 * rate_2) - weight_1
    torque_2 = control[0] - coriolis * rate_1**2 - weight_2
    determinant = inertia_11 * inertia_22 - inertia_12**2
    return jnp.stack(
        [
            rate_1,
            rate_2,
            (inertia_22 * torque_1 - inertia_12 * torque_2) / determinant,
            (inertia_11 * torque_2 - inertia_12 * torque_1) / determinant,
        ]
    )
