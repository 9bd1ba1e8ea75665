"""Hyperparameters that change as training goes on."""
import jax
import jax.numpy as jnp

Array = jax.Array


def remaining(steps: Array, decay: float | Array) -> Array:
    """What is left at `steps` of a linear fall from 1 to 0 over `decay` steps; 1 for ever when that is infinite."""
    return jnp.maximum(1 - steps / decay, 0)


def falling(steps: Array, initial: float | Array, final: float | Array, decay: float | Array) -> Array:
    """`initial` at the start, then linearly to `final` over `decay` steps, and that from there on."""
    return final + remaining(steps, decay) * (initial - final)
