"""Cart-pole: a pole that turns freely on a cart, which a force pushes along a frictionless track.

    symbol   in code         unit     meaning
    x, ẋ     position,       m, m/s   the cart's position and velocity
             velocity
    θ, θ̇     angle, rate     rad,     the pole's angle from upright, to the right, and its rate
                             rad/s
    F        control[0]      N        the force on the cart, to the right; the control is [1]
    g        gravity         m/s²
    M        cart_mass       kg
    m        pole_mass       kg       of a uniform pole
    l        half_length     m        from the joint to the pole's center of mass

The state [4] is (x, ẋ, θ, θ̇). With the drive d = (F + m l θ̇² sin θ) / (M + m),

    θ̈ = (g sin θ − d cos θ) / (l (4/3 − m cos² θ / (M + m)))
    ẍ = d − m l θ̈ cos θ / (M + m)

Barto, Sutton & Anderson, "Neuronlike adaptive elements that can solve difficult learning control
problems", 1983, without friction: gymnasium/envs/classic_control/cartpole.py.
"""

import jax.numpy as jnp

from etude.types import Array

Scalar = float | Array


def derivative(
    state: Array,
    control: Array,
    *,
    gravity: Scalar,
    cart_mass: Scalar,
    pole_mass: Scalar,
    half_length: Scalar,
) -> Array:
    """Return (ẋ, ẍ, θ̇, θ̈), [4]."""
    velocity, angle, rate = state[1:]
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    mass = cart_mass + pole_mass
    moment = pole_mass * half_length
    drive = (control[0] + moment * rate**2 * sine) / mass
    angular_acceleration = (gravity * sine - cosine * drive) / (
        half_length * (4 / 3 - pole_mass * cosine**2 / mass)
    )
    acceleration = drive - moment * angular_acceleration * cosine / mass
    return jnp.stack([velocity, acceleration, rate, angular_acceleration])
