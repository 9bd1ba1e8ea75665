"""What changes as training goes on: hyperparameters, and what is due."""

import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from etude.types import Array


def linear_decay(steps: Array, decay: float | Array) -> Array:
    """What is left at `steps` of a linear fall from 1 to 0 over `decay` steps; 1 for ever when that
    is infinite."""
    return jnp.maximum(1 - steps / decay, 0)


def linear_schedule(
    steps: Array, initial: float | Array, final: float | Array, decay: float | Array
) -> Array:
    """`initial` at the start, then linearly to `final` over `decay` steps, and that from there
    on."""
    return final + linear_decay(steps, decay) * (initial - final)


@custom_vmap
def assume_unbatched(clock: Array) -> Array:
    """`clock`, which is the same in all members of a `vmap`, as the one value it is.

    Seeds in one program have all taken as many steps. A `lax.cond` on one value stays a branch
    there; on a value for each seed both branches run, and what is not due is thrown away.
    """
    return clock


@assume_unbatched.def_vmap
def _first_of_batch(size: int, batched: list[bool], clock: Array) -> tuple[Array, bool]:
    return assume_unbatched(clock[0] if batched[0] else clock), False


@custom_vmap
def any_in_vmap(due: Array) -> Array:
    """`due`, or in a `vmap` whether it is so for any member, one value for all.

    A `lax.cond` on it stays a branch: what is due for one seed is worked out for all, and chosen
    from by each one's own `due`.
    """
    return due


@any_in_vmap.def_vmap
def _any_of_batch(size: int, batched: list[bool], due: Array) -> tuple[Array, bool]:
    return any_in_vmap(due.any() if batched[0] else due), False
