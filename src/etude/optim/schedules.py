"""Linear schedules of hyperparameters, and helpers that keep `lax.cond` a branch under `vmap`."""

import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from etude.types import Array

SMALLEST = float(jnp.finfo(jnp.float32).tiny)


def linear_decay(steps: Array, decay: float | Array) -> Array:
    """A factor that falls linearly from 1 to 0 over `decay` steps; 1 if `decay` is infinite.

    0 is the smallest float32 above it, so that what is infinite stays so: inf · 0 is no number.
    """
    return jnp.maximum(1 - steps / decay, SMALLEST)


def linear_schedule(
    steps: Array, initial: float | Array, final: float | Array, decay: float | Array
) -> Array:
    """A value that changes linearly from `initial` to `final` over `decay` steps, then stays."""
    return final + linear_decay(steps, decay) * (initial - final)


@custom_vmap
def assume_unbatched(x: Array) -> Array:
    """`x` without its batch axis under `vmap`, where the caller guarantees equal values.

    An example is the step count, which is equal for all seeds in one program. A `lax.cond` on the
    unbatched value stays a branch; on a batched one both branches run, and a select follows.
    """
    return x


@assume_unbatched.def_vmap
def _first_of_batch(size: int, batched: list[bool], x: Array) -> tuple[Array, bool]:
    return assume_unbatched(x[0] if batched[0] else x), False


@custom_vmap
def any_in_vmap(x: Array) -> Array:
    """`x`, or under `vmap` whether it is true for any member: one value, without the batch axis.

    A `lax.cond` on it stays a branch. The branch then runs for all members, and each member selects
    between old and new values by its own `x`.
    """
    return x


@any_in_vmap.def_vmap
def _any_of_batch(size: int, batched: list[bool], x: Array) -> tuple[Array, bool]:
    return any_in_vmap(x.any() if batched[0] else x), False
