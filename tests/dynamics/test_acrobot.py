"""The two ways to write the acrobot's motion against each other."""

import jax
import jax.numpy as jnp
import numpy as np

from etude.dynamics.acrobot import derivative, derivative_from_upright


def test_from_hanging_and_from_upright_it_is_the_same_motion():
    """Of links alike, whatever their gravity, mass, length and inertia."""
    rng = np.random.default_rng(0)
    states, torques = rng.normal(0, 2, (50, 4)), rng.normal(0, 5, (50, 1))

    def both(state, torque, gravity, mass, length, inertia):
        hanging = derivative(
            state + jnp.array([jnp.pi, 0, 0, 0]),
            torque,
            gravity=gravity,
            length=length,
            mass_1=mass,
            mass_2=mass,
            center_1=length / 2,
            center_2=length / 2,
            inertia=inertia,
        )
        return hanging, derivative_from_upright(
            state, torque, gravity=gravity, mass=mass, length=length, inertia=inertia
        )

    with jax.enable_x64(True):
        hanging, upright = jax.jit(jax.vmap(both))(states, torques, *rng.uniform(0.5, 2, (4, 50)))
    np.testing.assert_allclose(hanging, upright, rtol=1e-10, atol=1e-10)
