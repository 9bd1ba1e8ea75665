"""Standardization: columns of rows with mean 0 and standard deviation 1, and back.

A column that is constant, but for rounding, has no spread to divide by:

    inputs     keep their unit, so that a value which is seen later is no huge number
    targets    are divided by the least spread, so that a constant is predicted as one
"""

import jax.numpy as jnp

from etude.struct import struct
from etude.types import Array

# the least standard deviation that counts, as a fraction of 1 + |mean|
RELATIVE_SPREAD = 1e-5


@struct
class Standardization:
    """Mean and standard deviation of each column, with that of constants as said above."""

    mean: Array  # [column]
    std: Array  # [column]

    def forward(self, x: Array) -> Array:
        """(x − mean) / std of x [..., column]."""
        return (x - self.mean) / self.std

    def backward(self, x: Array) -> Array:
        """mean + std x of x [..., column]."""
        return self.mean + self.std * x


def no_standardization(columns: int) -> Standardization:
    """Mean 0 and standard deviation 1."""
    return Standardization(jnp.zeros(columns), jnp.ones(columns))


def standardization_of(x: Array, is_counted: Array, *, of_targets: bool = False) -> Standardization:
    """The standardization of the rows of x [row, column] in `is_counted`, bool [row]."""
    count = jnp.maximum(is_counted.sum(), 1)
    counted = is_counted[:, None]
    mean = jnp.where(counted, x, 0).sum(0) / count
    std = jnp.sqrt((jnp.where(counted, x - mean, 0) ** 2).sum(0) / count)
    least = RELATIVE_SPREAD * (1 + jnp.abs(mean))
    return Standardization(mean, jnp.where(std < least, least if of_targets else 1.0, std))
