"""Mountain car: a car in a valley, with an engine too weak for the hill, in discrete time.

    symbol   in code         unit       meaning
    x        position        1          along the road, whose height is sin(3 x)
    v        velocity        a step     positions gained in a step
    u        control[0]      1          the push, in [−1, 1], not clipped here; the control is [1]
    p        power           a step²    velocity gained in a step by a full push
    g        gravity         a step²    velocity lost in a step on the steepest slope

The state [2] is (x, v), and a step is

    vₜ₊₁ = clip(vₜ + p uₜ − g cos(3 xₜ), ±max_speed)
    xₜ₊₁ = clip(xₜ + vₜ₊₁, min_position, max_position)

The left end is an inelastic wall: a velocity to the left becomes zero there.

Moore, "Efficient memory-based learning for robot control", 1990, as in
gymnasium/envs/classic_control/mountain_car.py and continuous_mountain_car.py.
"""

import jax.numpy as jnp

from etude.types import Array

Scalar = float | Array


def next_state(
    state: Array,
    control: Array,
    *,
    power: Scalar,
    gravity: Scalar,
    min_position: Scalar,
    max_position: Scalar,
    max_speed: Scalar,
) -> Array:
    """Return the state [2] after a step."""
    position, velocity = state
    velocity = velocity + power * control[0] - gravity * jnp.cos(3 * position)
    velocity = jnp.clip(velocity, -max_speed, max_speed)
    position = jnp.clip(position + velocity, min_position, max_position)
    velocity = jnp.where((position <= min_position) & (velocity < 0), 0.0, velocity)
    return jnp.stack([position, velocity])
