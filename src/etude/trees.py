"""Operations on pytrees, and on leading and trailing axes of arrays."""

import operator
from typing import Any

import jax
import jax.numpy as jnp

from etude.types import Array


def tree_vdot(x: Any, y: Any) -> Array:
    """The inner product Σ xᵢ yᵢ of two trees with the same structure, []."""
    return jax.tree.reduce(operator.add, jax.tree.map(jnp.vdot, x, y))


def tree_axpy(x: Any, scale: float | Array, y: Any) -> Any:
    """x + scale y, leaf by leaf."""
    return jax.tree.map(lambda x, y: x + scale * y, x, y)


def batched_index(values: Array, index: Array) -> Array:
    """values[..., index], one element of the last axis for each leading index.

    The shapes are [..., n] and [...] to [...].
    """
    return jnp.take_along_axis(values, index[..., None], -1)[..., 0]


def where_done(done: Array, new: Array, old: Array) -> Array:
    """`new` in the rows where `done` [env] is true, `old` elsewhere; both are [env, ...]."""
    return jnp.where(done.reshape(done.shape + (1,) * (new.ndim - done.ndim)), new, old)
