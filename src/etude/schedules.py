"""What changes as training goes on: hyperparameters, and what is due."""
import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

Array = jax.Array


def remaining(steps: Array, decay: float | Array) -> Array:
    """What is left at `steps` of a linear fall from 1 to 0 over `decay` steps; 1 for ever when that is infinite."""
    return jnp.maximum(1 - steps / decay, 0)


def falling(steps: Array, initial: float | Array, final: float | Array, decay: float | Array) -> Array:
    """`initial` at the start, then linearly to `final` over `decay` steps, and that from there on."""
    return final + remaining(steps, decay) * (initial - final)


@custom_vmap
def alike(clock: Array) -> Array:
    """`clock`, which is the same in all members of a `vmap`, as the one value it is.

    Seeds in one program have all taken as many steps. A `lax.cond` on one value stays a branch there; on a value for each
    seed both branches run, and what is not due is thrown away.
    """
    return clock


@alike.def_vmap
def _of_the_first(size: int, batched: list[bool], clock: Array) -> tuple[Array, bool]:
    return alike(clock[0] if batched[0] else clock), False


@custom_vmap
def somewhere(due: Array) -> Array:
    """`due`, or in a `vmap` whether it is so for any member, one value for all.

    A `lax.cond` on it stays a branch: what is due for one seed is worked out for all, and chosen from by each one's own `due`.
    """
    return due


@somewhere.def_vmap
def _of_any(size: int, batched: list[bool], due: Array) -> tuple[Array, bool]:
    return somewhere(due.any() if batched[0] else due), False
