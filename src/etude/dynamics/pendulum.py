"""A uniform rod that turns about its end, with a motor in the joint.

    symbol   in code         unit     what it is
    θ, θ̇     angle, rate     rad,     the angle from upright, not wrapped, and its rate
                             rad/s
    τ        control[0]      N m      the torque; the control is [1]
    g        gravity         m/s²
    m        mass            kg
    l        length          m        of the rod
    h        time_step       s
    ω        max_rate        rad/s    the rate is held within ± this

The state [2] is (θ, θ̇). The rod's moment of inertia about its end is m l² / 3, so that

    θ̈ = 3 g / (2 l) sin θ + 3 τ / (m l²)

and a step, of semi-implicit Euler, takes the new rate to the new angle:

    θ̇ₜ₊₁ = clip(θ̇ₜ + h θ̈ₜ, −ω, ω),   θₜ₊₁ = θₜ + h θ̇ₜ₊₁

The task of Doya, "Reinforcement learning in continuous time and space", 2000, with the rod and the
step of gymnasium/envs/classic_control/pendulum.py.
"""
import jax
import jax.numpy as jnp

Array = jax.Array
Scalar = float | Array


def acceleration(angle: Array, control: Array, *, gravity: Scalar, mass: Scalar,
                 length: Scalar) -> Array:
    """θ̈, []."""
    return 1.5 * gravity / length * jnp.sin(angle) + 3 * control[0] / (mass * length**2)


def derivative(state: Array, control: Array, *, gravity: Scalar, mass: Scalar,
               length: Scalar) -> Array:
    """(θ̇, θ̈), [2], the bound of the rate aside."""
    angle, rate = state
    change = acceleration(angle, control, gravity=gravity, mass=mass, length=length)
    return jnp.stack([rate, change])


def next_state(state: Array, control: Array, *, gravity: Scalar, mass: Scalar, length: Scalar,
               time_step: Scalar, max_rate: Scalar) -> Array:
    """The state [2] a step of semi-implicit Euler later."""
    angle, rate = state
    change = acceleration(angle, control, gravity=gravity, mass=mass, length=length)
    rate = jnp.clip(rate + time_step * change, -max_rate, max_rate)
    return jnp.stack([angle + time_step * rate, rate])
