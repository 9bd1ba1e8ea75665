"""Car: the kinematic bicycle model, whose wheels do not slip.

    symbol   in code         unit     meaning
    x, y     state[:2]       m        the position of the rear axle
    ψ        heading         rad      from the x axis
    v        speed           m/s
    a        acceleration    m/s²     the control [2], with
    δ        steering        rad      the angle of the front wheels
    l        wheelbase       m        from the rear axle to the front one

The state [4] is (x, y, ψ, v):

    ẋ = v cos ψ,   ẏ = v sin ψ,   ψ̇ = v / l tan δ,   v̇ = a

Rajamani, "Vehicle dynamics and control", 2012, §2.2.
"""

import jax.numpy as jnp

from etude.types import Array

Scalar = float | Array


def derivative(state: Array, control: Array, *, wheelbase: Scalar) -> Array:
    """Return (ẋ, ẏ, ψ̇, v̇), [4]."""
    heading, speed = state[2:]
    acceleration, steering = control
    return jnp.stack(
        [
            speed * jnp.cos(heading),
            speed * jnp.sin(heading),
            speed / wheelbase * jnp.tan(steering),
            acceleration,
        ]
    )
