"""Schedules at their corners."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.optim.schedules import any_in_vmap, assume_unbatched, linear_decay, linear_schedule


def test_what_remains_falls_linearly_to_zero_and_stays():
    told = [float(linear_decay(np.int32(steps), 1000.0)) for steps in (0, 250, 1000, 10**9)]
    np.testing.assert_allclose(told, [1, 0.75, 0, 0], rtol=1e-6, atol=1e-37)
    assert linear_decay(np.int32(10**9), jnp.inf) == 1


def test_a_fall_goes_from_one_value_to_another_and_stays():
    told = [
        float(linear_schedule(np.int32(steps), 0.8, 0.2, 1000.0))
        for steps in (0, 250, 500, 1000, 10**9)
    ]
    np.testing.assert_allclose(told, [0.8, 0.65, 0.5, 0.2, 0.2], rtol=1e-6)
    # which may be a rise
    np.testing.assert_allclose(linear_schedule(np.int32(500), 0.4, 1.0, 1000.0), 0.7, rtol=1e-6)


def test_what_is_not_due_is_left_undone_for_all_seeds():
    """Also under two vmaps, one inside the other, where a cond on a value for each member would be
    a select."""

    def step(clock, x):
        return jax.lax.cond(assume_unbatched(clock) == 3, lambda x: 2 * x, lambda x: x, x)

    clock, x = jnp.full((2, 4), 3), jnp.arange(8.0).reshape(2, 4)
    many = jax.vmap(jax.vmap(step))
    np.testing.assert_array_equal(many(clock, x), 2 * x)
    np.testing.assert_array_equal(many(clock + 1, x), x)
    program = str(jax.make_jaxpr(many)(clock, x))
    assert "cond" in program and "select" not in program


@pytest.mark.slow
def test_what_is_due_for_one_seed_is_worked_out_for_all_and_for_none_when_it_is_not():
    def step(due, x):
        return jax.lax.cond(any_in_vmap(due), lambda x: jnp.where(due, 2 * x, x), lambda x: x, x)

    x, some = jnp.arange(8.0).reshape(2, 4), jnp.zeros((2, 4), bool).at[1, 2].set(True)
    many = jax.vmap(jax.vmap(step))
    np.testing.assert_array_equal(many(some, x), jnp.where(some, 2 * x, x))
    np.testing.assert_array_equal(many(jnp.zeros_like(some), x), x)
    assert "cond" in str(jax.make_jaxpr(many)(some, x))
    np.testing.assert_array_equal(step(np.bool_(True), x), 2 * x)
